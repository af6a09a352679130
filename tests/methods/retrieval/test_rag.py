"""Plain retrieval: passages with their places, numbered sources in the prompt, the paper's numbers."""

import pytest
from scripted_writer import ScriptedWriter

from ltm.errors import ConfigError
from ltm.methods.retrieval.rag import Rag, RagConfig
from ltm.notes.encoder import HashEncoder
from ltm.text.means import Means

BOOK = (
    "The brass key lies under the doormat. Nobody knows it but Wendy.\n\n"
    'Chapter two. "Zeppelins," said Wendy, "are painted on Thursdays." It rained. ' + "Rain again. " * 30
)


def make(answer="Under the doormat.", encoder=None, **options):
    config = RagConfig(**{"encoder": "hash", "passage_words": 8, **options})
    return Rag.open(config, Means(writer=ScriptedWriter(answer), encoder=encoder))


def test_the_defaults_are_the_papers_and_the_studied_ones():
    assert RagConfig() == RagConfig(
        encoder="minilm", writer=None, search="hybrid", num_passages=5, num_candidates=20, passage_words=100
    )


def test_passages_are_characters_of_the_document():
    method = make()
    event = method.remember(BOOK, "book.txt", role="document")
    notes = method.memory[0].notes()
    assert all(note.text == BOOK[note.cites[0].start : note.cites[0].end] for note in notes)
    assert all(len(note.text.split()) <= 8 and note.cites[0].event == event.id for note in notes)
    reply = method.reply([{"role": "user", "content": "Where is the brass key?"}])
    passages = method.passages(reply.found)
    assert (passages[0].document, passages[0].start) == ("book.txt", 0)
    assert all(BOOK[one.start : one.end] == one.text for one in passages)
    assert [one.weight for one in passages] == sorted((one.weight for one in passages), reverse=True)


def test_the_prompt_numbers_its_sources_before_the_question():
    method = make(num_passages=2)
    method.remember(BOOK, "book.txt", role="document")
    method.remember("The key was lost.", role="user")
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]
    method.reply([*history, {"role": "user", "content": "Where does the brass key lie?"}])
    first, second, recalled, question = method.means.writer.prompts[0]
    assert [first, second] == history and question == {"role": "user", "content": "Where does the brass key lie?"}
    assert recalled["role"] == "user" and recalled["recalled"] is True
    assert recalled["content"].splitlines()[2:] == [
        "[1] book.txt: The brass key lies under the doormat.",
        "",
        "[2] The key was lost.",
    ]


def test_answers_are_logged_but_never_looked_up():
    method = make()
    method.remember("The brass key is in Rome.", role="user", source="chat")
    method.remember({"role": "assistant", "content": "The brass key is in Rome, you said."}, source="chat")
    assert [event.role for event in method.memory[0].events()] == ["user", "assistant"]
    assert [found.note.text for found in method.recall("brass key Rome")] == ["The brass key is in Rome."]


def test_searching_by_words_needs_no_encoder():
    method = make(encoder="no-such-encoder", search="words")
    method.remember(BOOK, "book.txt")
    assert method.recall("zeppelins")[0].ranks == {"words": 1}
    with pytest.raises(ConfigError, match="passage_words=0.*search='magic'; use one of hybrid, words, meaning"):
        RagConfig(search="magic", passage_words=0)
    with pytest.raises(ConfigError, match="num_passages=9, num_candidates=3"):
        RagConfig(num_passages=9, num_candidates=3)


def test_nothing_recalled_is_the_plain_question():
    method = make()
    assert method.reply([{"role": "user", "content": "Hm?"}]).prompt == [{"role": "user", "content": "Hm?"}]


def test_an_encoder_that_fails_leaves_no_half_document():
    class Broken(HashEncoder):
        def embed(self, texts):
            raise OSError("no more memory")

    method = make(encoder=Broken())
    with pytest.raises(OSError, match="no more memory"):
        method.remember(BOOK, "book.txt")
    method.means._encoder = HashEncoder()  # what was logged is whole, and its vectors are made when they can be
    assert method.recall("brass key")[0].note.text == "The brass key lies under the doormat."


def test_progress_is_told_in_vectors():
    method, told = make(), []
    method.remember("One more sentence of words here now. " * 150, "book.txt", progress=lambda *now: told.append(now))
    assert told == [(64, 150), (128, 150), (150, 150)]


def test_joined_by_score_a_passage_is_found_by_what_stands_beside_it():
    text = "The harbour master is Anna. She was born in Lisbon. Boats are red. Bees are brown."
    found = {}
    for fusion in ("rank", "score"):
        rag = make(search="words", fusion=fusion, passage_words=5, num_passages=4)
        rag.remember(text, "notes")
        found[fusion] = [one.note.text for one in rag.recall("harbour master")]
    assert found["rank"] == ["The harbour master is Anna."]
    assert found["score"] == ["The harbour master is Anna.", "She was born in Lisbon."]
