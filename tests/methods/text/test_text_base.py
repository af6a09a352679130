"""TextMemory's base through the tests' diary: what a method can do with notes, links, the writer and mending."""

import threading
from dataclasses import replace

import pytest
from diary import Diary, DiaryConfig
from scripted_writer import ScriptedWriter

from ltm.errors import LtmError
from ltm.notes.writer import WriterError
from ltm.text.means import Means


def make(answer='{"topic": "keys"}'):
    return Diary.open(DiaryConfig(), Means(writer=ScriptedWriter(answer)))


def test_the_writers_answers_become_fields_of_notes():
    method = make(['{"topic": "keys"}', 'Well: {"topic": "rain"}'])
    method.remember("The key lies here.", "a")
    method.remember("It rains.", "b")
    entries = method.memory[0].notes(kind="entry")
    assert [note.about["topic"] for note in entries] == ["keys", "rain"]
    assert method.means.writer.prompts[0] == [{"role": "user", "content": "Topic of: The key lies here."}]


def test_what_was_changed_by_an_event_is_mended_when_it_goes():
    method = make()
    for name, text in (("a", "The brass key."), ("b", "The brass lamp."), ("c", "A brass bell.")):
        method.remember(text, name)
    first = method.memory[0].note(0)
    assert first.about["seen"] and first.events == {0, 1, 2}  # the later ones changed it
    method.forget("b")
    notes = method.memory[0]
    assert sorted(note.text for note in notes.notes(kind="entry")) == ["A brass bell.", "The brass key."]
    assert all(1 not in note.events for note in notes.notes())
    (page,) = notes.notes(kind="page")
    assert page.text == "The brass key. A brass bell."
    method.forget("a")
    method.forget("c")
    assert notes.dump() == {"events": [], "notes": []}


def test_a_mending_that_fails_forgets_nothing(monkeypatch):
    method = make()
    method.remember("The brass key.", "a")
    method.remember("The brass lamp.", "b")
    before = method.memory[0].dump()
    monkeypatch.setattr(method, "mend", lambda gone, notes: method.ask(DiaryConfig, "?"))
    method.means.writer.answer = None
    with pytest.raises(WriterError, match="script did not answer"):
        method.forget("a")
    assert method.memory[0].dump() == before


def test_a_rebuild_that_fails_leaves_the_notes():
    method = make()
    method.remember("The brass key.", "a")
    notes = method.memory[0]
    notes.put(replace(notes.note(0), about={"topic": "by hand"}))
    before = notes.dump()
    method.means.writer.answer = "nonsense"
    with pytest.raises(WriterError):
        method.rebuild()
    assert notes.dump() == before


def test_messages_have_roles_and_wrong_ones_are_refused():
    method = make()
    assert method.remember({"role": "Ann", "content": "Hello."}, "chat").role == "Ann"
    for wrong in ({"content": "x"}, {"role": "user"}, {"role": "user", "content": 3}):
        with pytest.raises(LtmError, match="is no message"):
            method.remember(wrong)


def test_threads_that_come_first_share_one_memory(monkeypatch):
    method, start, made = make(), threading.Barrier(4), []
    new_memory = method.new_memory
    monkeypatch.setattr(method, "new_memory", lambda rows=0: made.append(1) or new_memory(rows))

    def work(name):
        start.wait()
        method.remember(f"{name} was here.", name)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1] and len(method.memory[0].sources) == 4
