"""Passages found for a question, what of them is shown, and what follows a bank."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ltm.backbone import load_backbone
from ltm.bank import Bank
from ltm.errors import ConfigError, LtmError
from ltm.methods import create_method
from ltm.notes.store import NoteStore
from ltm.streams.open_stream import OpenStream
from ltm.text.asking import UNKNOWN, Asking, fitting, prompt_text
from ltm.text.recall import PassageRecall
from ltm.text.session import Session

HARBOUR = "The lighthouse was built in 1874 by Pedro Alves. It is forty metres high. Boats see it from afar."
BEES = "Boris keeps bees behind the mill. The honey is sold in Lisbon."


@pytest.fixture
def longmem():
    options = {"reduction_factor": 2, "chunk_size": 4, "retrieved_tokens": 8, "pointer_tokens": 64, "start": "paper"}
    return create_method("longmem", load_backbone("tiny-llama"), **options, segment_size=32, local_window=512)


@pytest.fixture
def session(longmem):
    return Session(longmem, encoder=None)


@pytest.fixture
def read(session):
    session.read(HARBOUR, "harbour")
    session.read(BEES, "bees")
    return session


def test_the_passage_that_fits_is_found_and_shown_in_the_order_of_the_text(read):
    found = read.recall.find("Who keeps bees?")
    assert found.found[0].document == "bees" and BEES[found.found[0].start : found.found[0].end] == BEES
    assert "Boris keeps bees behind the mill." in [passage.text for passage in found.shown]
    places = [(passage.document, passage.start) for passage in found.shown if passage.document == "harbour"]
    assert places == sorted(places)
    texts = {"harbour": HARBOUR, "bees": BEES}
    assert all(texts[one.document][one.start : one.end] == one.text for one in (*found.found, *found.shown))


def test_a_search_lists_what_fits_without_asking_the_model(read, monkeypatch):
    monkeypatch.setattr(read.method, "stream", None)
    assert [passage.document for passage in read.search("bees of Lisbon", 5)] == ["bees"]
    many = read.search("honey lighthouse", 5)
    assert {passage.document for passage in many} == {"bees", "harbour"} and many[0].weight >= many[1].weight > 0
    assert len(read.search("honey lighthouse", 1)) == 1 and read.search("zork", 5) == []


@pytest.mark.parametrize("name", ["full", "window", "tova"])
def test_a_method_without_a_bank_finds_passages_too(name):
    session = Session(create_method(name, load_backbone("tiny-llama")), encoder=None)
    session.read(HARBOUR, "harbour")
    assert session.recall.find("Who keeps bees?").confidence < 0.5
    session.read(BEES, "bees")
    answer = session.ask("Who keeps bees?", max_new_tokens=2)
    assert answer.found[0].document == "bees" and answer.recalled and answer.confidence > 0.5
    assert answer.prompt_tokens > session.ask("Who keeps bees?", recall="memory", max_new_tokens=2).prompt_tokens
    session.reset()
    session.read(HARBOUR, "harbour")
    assert [one.document for one in session.recall.find("Who keeps bees?").found] == []
    assert session.recall.find("When was the lighthouse built?").found[0].document == "harbour"


def test_another_memory_of_the_method_is_another_past(read):
    assert read.recall.find("Who keeps bees?").found
    other = Session(read.method, memory=read.method.new_memory(), encoder=None)
    for name in ("first", "second", "third"):
        other.read(HARBOUR, name)
    read.method.use_bank(other.bank)
    assert {one.document for one in read.recall.find("Who built the lighthouse?").found} == {"first", "second", "third"}


def test_what_was_not_to_be_remembered_is_neither_found_nor_shown(session, longmem, tmp_path):
    text = "Boris keeps bees behind the mill. He hides the honey in the cellar. The bees sleep in winter."
    ranges = [(0, text.index(" He")), (text.index("The bees"), len(text))]

    def check(asked):
        answer = asked.ask("Where does Boris hide the honey of the bees?", trace=True, max_new_tokens=6)
        shown = [*answer.found, *answer.recalled, *answer.passages, *answer.trace.passages]
        assert answer.recalled and answer.passages
        assert all(any(low <= one.start < one.end <= high for low, high in ranges) for one in shown), shown
        assert all(text[one.start : one.end] == one.text for one in shown)

    session.read(text, "bees", ranges=ranges)
    check(session)
    session.save(tmp_path / "bank")
    opened = Session(longmem, path=tmp_path / "bank", encoder=None)
    longmem.use_bank(Bank.load(tmp_path / "bank"))
    check(opened)
    store = NoteStore.open(tmp_path / "bank" / "passages")  # passages from elsewhere, of all of the text
    for event in store[0].events():
        store[0].forget(event.source)
    session.recall.retriever.remember(text, "0", role="document", about={"name": "bees"}, memory=store)
    store.close()
    check(Session(longmem, path=tmp_path / "bank", encoder=None))
    plain = Session(create_method("window", load_backbone("tiny-llama")), encoder=None)
    plain.read(text, "bees", ranges=ranges)
    found = plain.recall.find("Where does Boris hide the honey of the bees?")
    assert found.shown and all("cellar" not in one.text for one in (*found.found, *found.shown))


def test_confidence_tells_what_was_read_from_what_was_not(read):
    known, unknown = (read.recall.find(text).confidence for text in ("Who keeps bees?", "When did Napoleon die?"))
    assert known > 0.5 > 0.1 > unknown
    answer = read.ask("When did Napoleon die?", min_confidence=0.1)
    assert answer.abstained and answer.text == UNKNOWN and not answer.token_ids
    assert not read.ask("Who keeps bees?", min_confidence=0.1, max_new_tokens=2).abstained


def test_what_is_deleted_is_found_no_more(read, tmp_path):
    read.save(tmp_path / "bank")
    assert (tmp_path / "bank" / "passages").is_dir()
    read.delete("bees")
    assert all(one.document != "bees" for one in read.recall.find("Who keeps bees?").found)
    read.save()
    held = [file for file in (tmp_path / "bank").rglob("*") if file.is_file() and b"Boris" in file.read_bytes()]
    assert held == []


def test_a_bank_that_deletes_by_itself_leaves_no_passage_of_it(read, tmp_path):
    read.save(tmp_path / "bank")
    bank = Bank.load(tmp_path / "bank")
    bank.delete_document(bank.documents[1].id)
    bank.save(tmp_path / "bank")
    assert not (tmp_path / "bank" / "passages").exists()
    assert Bank.find_text(tmp_path / "bank", "Boris keeps bees behind") == []


def test_a_saved_bank_is_opened_with_its_passages(read, longmem, tmp_path, monkeypatch):
    read.save(tmp_path / "bank")
    other = Session(longmem, path=tmp_path / "bank", encoder=None)
    monkeypatch.setattr(PassageRecall, "add", lambda *_: pytest.fail("read anew"))
    assert other.recall.find("Who keeps bees?").found[0].document == "bees"


def test_what_the_answer_has_before_it(read):
    asked = {
        mode: read.ask("Who keeps bees?", recall=mode, max_new_tokens=2) for mode in ("both", "text", "memory", "off")
    }
    assert [len(asked[mode].recalled) > 0 for mode in asked] == [True, True, False, False]
    assert asked["both"].prompt_tokens == asked["text"].prompt_tokens > asked["memory"].prompt_tokens
    likelihoods = [read.answer_likelihoods("Who keeps bees?", ["Boris"], recall=mode)[0] for mode in asked]
    assert len(set(likelihoods)) == 4  # memory and passages each change what is answered


def test_many_questions_are_answered_as_one_by_one(read):
    questions = ["Who keeps bees?", "When was the lighthouse built?", "How high is it?"]
    alone = [read.ask(question, max_new_tokens=6) for question in questions]
    together = read.ask_all(questions, max_new_tokens=6, batch_size=2)
    assert [one.text for one in alone] == [one.text for one in together]
    assert [one.recalled for one in alone] == [one.recalled for one in together]
    given = read.ask_all(questions, given=[["Boris."]] * 3, max_new_tokens=2)
    assert all(one.recalled[0].text == "Boris." and one.confidence is None for one in given)
    with pytest.raises(ConfigError, match="given holds 1 items"):
        read.ask_all(questions, given=[["Boris."]])


def test_an_earlier_turn_is_not_encoded_again(read):
    history = [{"role": "user", "content": "Who keeps bees?"}, {"role": "assistant", "content": "Boris."}]
    first = read.ask("Where?", history=history, max_new_tokens=6)
    again = read.ask("Where?", history=history, max_new_tokens=6)
    assert first.text == again.text and first.prompt_tokens == again.prompt_tokens
    assert again.encoded_tokens < first.encoded_tokens == first.prompt_tokens
    longer = [*history, {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Behind the mill."}]
    follows = read.ask("What is sold?", history=longer, max_new_tokens=6)
    plain = Session(read.method, encoder=None).ask("What is sold?", history=longer, max_new_tokens=6)
    assert follows.text == plain.text and follows.encoded_tokens < plain.encoded_tokens


@pytest.mark.parametrize("name", ["longmem", "memorizing", "em_llm", "quest"])
def test_earlier_turns_stay_encoded_while_more_is_read_and_not_when_it_is_deleted(name, longmem):
    method = longmem if name == "longmem" else create_method(name, load_backbone("tiny-llama"))
    session = Session(method, encoder=None)
    session.read(HARBOUR, "harbour")
    history = [{"role": "user", "content": "Who keeps bees?"}, {"role": "assistant", "content": "Boris."}]
    first = session.ask("Hm?", history=history, max_new_tokens=2)
    session.read(BEES, "bees")
    again = session.ask("Hm?", history=history, max_new_tokens=2)
    assert again.encoded_tokens < first.encoded_tokens == first.prompt_tokens == again.prompt_tokens
    session.delete("harbour")  # nothing of what was encoded with it holds
    assert session.ask("Hm?", history=history, max_new_tokens=2).encoded_tokens == first.prompt_tokens


def test_a_trace_says_what_each_passage_of_the_window_moved(read):
    answer = read.ask("Who keeps bees?", max_new_tokens=4, trace=True)
    assert {one.passage for one in answer.moved} == set(answer.recalled)
    assert [one.nats for one in answer.moved] == sorted((one.nats for one in answer.moved), reverse=True)
    for one in answer.moved:
        words = [answer.trace.tokens[number].text.strip() for number in one.tokens]
        assert one.words == [word for word in words if word]
    assert read.ask("Who keeps bees?", max_new_tokens=4).moved == []


def test_a_trace_encodes_no_earlier_turn_again(read, monkeypatch):
    history = [{"role": "user", "content": "Who keeps bees? " * 8}, {"role": "assistant", "content": "Boris. " * 8}]
    where = "Where are the bees?"
    read.ask(where, history=history, max_new_tokens=4)
    pushed, push = [], OpenStream.push
    monkeypatch.setattr(OpenStream, "push", lambda *a, **k: (pushed.append(a[1].shape[1]), push(*a, **k))[1])
    again = read.ask(where, history=history, max_new_tokens=4, trace=True)
    assert len(pushed) == len(again.recalled) + 1
    assert max(pushed) <= again.encoded_tokens + len(again.token_ids) < again.prompt_tokens
    plain = Session(read.method, encoder=None).ask(where, history=history, max_new_tokens=4, trace=True)
    assert [one.nats for one in again.moved] == pytest.approx([one.nats for one in plain.moved], abs=1e-3)


NEWS = "The key of the red barn lies in Rome. Cats sleep in the sun. Since then: the key of the red barn lies in Oslo."


def test_only_sentences_near_the_question_are_shown():
    recall = PassageRecall(None)
    recall.add(0, "news", NEWS)
    assert all("key" in passage.text for passage in recall.find("Where is the key of the red barn?").shown)


def test_what_a_later_sentence_says_anew_stands_alone():
    recall = PassageRecall(None)
    recall.add(0, "news", NEWS)
    recall.add(1, "letter", "The key of the red barn lies in Pisa.")  # read last
    shown = recall.find("Where is the key of the red barn?").shown
    assert [passage.text for passage in shown] == ["The key of the red barn lies in Pisa."]
    asked_for = recall.find("Was the key of the red barn in Rome?").shown
    assert [passage.start for passage in asked_for] == [0], "the later ones lack a word that was asked for"


def test_a_sentence_that_another_leads_to_is_shown():
    recall = PassageRecall(None)
    recall.add(0, "letter", f"Ada keeps the marble clock in a drawer. {BEES}")
    recall.add(1, "lists", f"{HARBOUR} The marble clock was made in Cordoba. The velvet clock was made in Rome.")
    asked = recall.find("Where was the thing made that Ada keeps in a drawer?").shown
    assert [passage.document for passage in asked] == ["letter", "lists"] and "Cordoba" in asked[1].text
    assert [passage.document for passage in recall.find("What does Ada keep in a drawer?").shown] == ["letter"]


def test_passages_keep_within_their_room(read):
    shown = read.recall.find("bees, honey, Lisbon, mill").shown
    kept = fitting(shown, read.tokenizer, len(read.tokenizer(shown[-1].text)["input_ids"]) + 1)
    assert 0 < len(kept) < len(shown) and fitting(shown, read.tokenizer, 0) == []
    assert fitting(shown, read.tokenizer, None) == shown


def test_the_prompt_names_documents_and_ends_with_the_question(read):
    shown = read.recall.find("Who keeps bees?").shown
    text = prompt_text("Who keeps bees?", shown, Asking())
    assert "From bees:\nBoris keeps bees" in text and text.endswith(
        "Who keeps bees?\nAnswer in a few words taken from the text."
    )
    assert prompt_text("Who?", shown, Asking(instruction="")).endswith("\n\nWho?")
    assert prompt_text("Who?", [], Asking()) == "Who?"


def test_bad_ways_of_asking_are_told(read):
    with pytest.raises(ConfigError, match="recall='x'.*num_passages=0.*min_confidence=2"):
        read.ask("Who?", recall="x", num_passages=0, min_confidence=2.0)
    with pytest.raises(LtmError, match="temperature: not to be had for many questions"):
        read.ask_all(["Who?"], temperature=1.0)


def test_nothing_read_is_nothing_found(session):
    answer = session.ask("Who?", max_new_tokens=2)
    assert answer.found == [] and answer.recalled == []


def test_what_another_process_deleted_is_not_written_again(read, tmp_path):
    read.save(tmp_path / "bank")
    bank = Bank.load(tmp_path / "bank")
    bank.delete_document(bank.documents[1].id)
    bank.save(tmp_path / "bank")
    read.recall.add(7, "more", "Something new, so that there is much to write. " * 9)
    read.recall.save(tmp_path / "bank", read.bank)
    assert not (tmp_path / "bank" / "passages").exists()


def test_passages_that_say_something_else_are_made_anew(read, longmem, tmp_path):
    read.save(tmp_path / "bank")
    store = NoteStore.open(tmp_path / "bank" / "passages")
    (note,) = [note for note in store[0].notes() if "Boris" in note.text]
    store[0].put(replace(note, text=note.text.replace("Boris", "Mallory")))
    store.close()
    found = Session(longmem, path=tmp_path / "bank", encoder=None).recall.find("Who keeps bees?")
    assert "Boris" in found.found[0].text
