"""TextSession: a session's verbs on a store of notes."""

import pytest
from scripted_writer import ScriptedWriter

from ltm.errors import LtmError
from ltm.methods.retrieval.rag import Rag, RagConfig
from ltm.notes.encoder import HashEncoder
from ltm.notes.store import NoteStore
from ltm.text.means import Means
from ltm.text.text_session import TextSession
from ltm.text.trace_page import trace_page

TEXT = "The brass key lies under the doormat. " + "It rains a lot in these parts. " * 30


def make(path=None, **options):
    config = RagConfig(**{"encoder": "hash", "passage_words": 8, **options})
    return TextSession(Rag.open(config, Means(writer=ScriptedWriter("Under it."), encoder=HashEncoder())), path)


def test_documents_are_read_listed_asked_and_deleted(tmp_path):
    session, told = make(tmp_path), []
    info = session.read(TEXT, "a.txt", progress=told.append)
    assert (info.name, info.num_chars, info.num_tokens, info.num_chunks) == ("a.txt", len(TEXT), 217, 31)
    assert told[-1].chars == told[-1].total_chars == len(TEXT) and told[-1].bank_bytes > 0
    session.read("Another text.", "b.txt")
    assert [one.name for one in session.documents] == ["a.txt", "b.txt"]

    heard = []
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]
    answer = session.ask("Where is the key?", history=history, trace=True, on_text=heard.append, max_new_tokens=9)
    assert answer.text == "".join(heard) == "Under it." and answer.ended and answer.prompt_tokens > 10
    best = answer.passages[0]
    assert (best.document, best.text) == ("a.txt", "The brass key lies under the doormat.")
    assert TEXT[best.start : best.end] == best.text
    page = trace_page("Where is the key?", answer)
    assert "doormat" in page and answer.to_dict()["passages"][0]["document"] == "a.txt"
    assert session.ask("Where?").passages == []
    hits = session.search("brass key", 3)
    assert len(hits) == 3 and hits[0].weight > hits[1].weight and (hits[0].document, hits[0].text) == best_of(best)

    assert session.delete("a.txt").name == "a.txt" and session.delete(1).name == "b.txt"
    with pytest.raises(LtmError, match="no document 'a.txt' in this memory; it holds: nothing"):
        session.delete("a.txt")
    assert NoteStore.load(tmp_path).is_empty


def best_of(passage):
    return passage.document, passage.text


def test_a_text_of_the_same_name_is_passed_over_or_refused():
    session = make()
    first = session.read(TEXT, "a.txt")
    assert session.read(TEXT, "a.txt") == first and len(session.documents) == 1
    with pytest.raises(LtmError, match="holds another text called a.txt"):
        session.read("Other.", "a.txt")
    with pytest.raises(LtmError, match="holds no text"):
        session.read(" ", "empty.txt")
    with pytest.raises(LtmError, match="remembers whole texts"):
        session.read("Other.", "c.txt", ranges=[(0, 2)])


def test_a_conversation_is_kept_as_one_document():
    session = make()
    session.keep([{"role": "user", "content": "I like plums."}, {"role": "assistant", "content": "Good."}], "chat")
    assert [event.role for event in session.memory[0].events()] == ["user", "assistant"]
    (info,) = session.documents
    assert (info.name, info.num_tokens, info.num_chunks) == ("chat", 4, 1)  # an answer is no passage
    session.delete("chat")
    assert session.memory.is_empty


def test_saved_elsewhere_and_opened_again(tmp_path):
    session = make()
    with pytest.raises(LtmError, match="give save\\(\\) a path"):
        session.save()
    session.read(TEXT, "a.txt", path=tmp_path / "one")
    session.save(tmp_path / "two")
    for name in ("one", "two"):
        assert [one.name for one in make(tmp_path / name).documents] == ["a.txt"]
    with pytest.raises(LtmError, match="was made with passage_words=8"):
        make(tmp_path / "one", passage_words=9)


def test_a_text_is_not_gone_on_with():
    with pytest.raises(LtmError, match="leave --continue out"):
        make().continue_text("Once")


def test_many_questions_are_answered_one_by_one_with_what_is_found_or_given():
    session = make(num_passages=1)
    writer = session.method.means.writer
    session.read(TEXT, "a.txt")
    found, away = session.ask_all(["Where is the key?", "Does it rain?"], instruction="Be short.", max_new_tokens=9)
    assert found.text == "Under it." and "doormat" in found.recalled[0].text and "rains" in away.recalled[0].text
    assert writer.prompts[0][-1]["content"] == "Where is the key?\nBe short."
    (given,) = session.ask_all(["Where?"], given=[["On the roof."]], max_new_tokens=9)
    assert [one.text for one in given.recalled] == ["On the roof."] and given.found == []
    assert [turn["content"] for turn in writer.prompts[-1]] == [
        "On the roof.\n\nWhere?\nAnswer in a few words taken from the text."
    ]
    (off,) = session.ask_all(["Where?"], recall="off", max_new_tokens=9)
    assert off.recalled == [] and writer.prompts[-1] == [{"role": "user", "content": "Where?"}]
    with pytest.raises(LtmError, match="temperature: not to be had for many"):
        session.ask_all(["Where?"], temperature=1.0)
    with pytest.raises(LtmError, match="given holds 1 items"):
        session.ask_all(["Where?", "Who?"], given=[["On the roof."]])
    with pytest.raises(LtmError, match="the question is empty"):
        session.ask_all([" "], given=[["On the roof."]])


def test_an_instruction_is_not_looked_for():
    session = make(num_passages=1)
    session.read(TEXT, "a.txt")
    assert "doormat" in session.ask("Where is the key?", instruction="It rains a lot in these parts.").found[0].text


def test_answers_have_likelihoods_as_their_writer_tells_them(monkeypatch):
    session, seen = make(), []
    session.read(TEXT, "a.txt")
    writer = session.method.means.writer
    monkeypatch.setattr(writer, "score", lambda prompt, choices: (seen.append(prompt), [-1.0 for _ in choices])[1])
    assert session.answer_likelihoods("Where is the key?", ["Under it.", "Away."]) == [-1.0, -1.0]
    assert "doormat" in seen[0][0]["content"] and seen[0][-1]["content"] == "Where is the key?"
    assert session.answer_likelihoods("Where?", ["Away."], given=["On the roof."]) == [-1.0]
    assert "doormat" not in str(seen[1]) and "On the roof." in seen[1][-1]["content"]


def test_it_is_forgotten_at_once(tmp_path):
    session = make(tmp_path)
    session.read(TEXT, "a.txt")
    session.reset()
    assert session.documents == [] and NoteStore.load(tmp_path).is_empty
    assert (session.window, session.capacity, session.recall_modes) == (None, None, ("text", "off"))
    writes = TextSession.open(method="rag", backbone="tiny-llama", encoder="hash")
    assert writes.window == 512
