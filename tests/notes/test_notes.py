"""NoteStore: events verbatim and for ever, notes that cite them, rows that never see each other, blocks that undo."""

import sqlite3
import threading
from dataclasses import replace

import pytest

from ltm.errors import LtmError
from ltm.notes.encoder import HashEncoder
from ltm.notes.records import Cite, Event, Note
from ltm.notes.store import NoteStore

HASH = HashEncoder()
TIME = "2026-01-02T03:04:05+00:00"


def hashed(store, row=0):
    return store.row(row, lambda: HASH)


def with_letter(row):
    """An event and two notes of it."""
    event = row.append("The key is under the mat. Zebras quack at noon.", source="letter", time=TIME)
    key = row.add("The key is under the mat.", event.cite(0, 25))
    return event, key, row.add("Zebras quack at noon.", event.cite(26), kind="odd", about={"n": 1}, links=[key.id])


def test_what_was_said_comes_back_verbatim():
    row = NoteStore()[0]
    text = "  two  spaces,\ttabs\n\nand ünïcödé 🦓 \n"
    event = row.append(text, source="a", role="Ann", time=TIME, about={"place": "Rome"})
    assert event == Event(0, "a", "Ann", text, TIME, {"place": "Rome"})
    assert row.event(0) == event and row.events() == [event] and row.events("b") == []


def test_an_event_is_never_rewritten():
    store = NoteStore()
    store[0].append("one")
    with pytest.raises(LtmError, match="an event is never rewritten"):
        store.database.run("UPDATE events SET text = 'two'")
    assert store[0].event(0).text == "one"


def test_notes_come_back_as_they_were_made():
    row = NoteStore()[0]
    event, key, odd = with_letter(row)
    assert odd == Note(1, "Zebras quack at noon.", (Cite(0, 26, 47),), "", "odd", {"n": 1}, (0,))
    assert row.notes() == [key, odd] and row.notes(kind="odd") == [odd] and row.note(1) == odd
    assert row.notes(ids=[1, 7, 0]) == [odd, key]
    assert len(row) == 2 and row.citing(event.id) == [0, 1]


def test_many_notes_are_read_as_few_are():
    row = NoteStore()[0]
    event = row.append("x" * 700)
    with row.transaction():
        made = [row.add(f"n{n}", [event.cite(n, n + 1), event], links=range(n % 3)) for n in range(700)]
    assert row.notes() == made  # more than are named one by one in a statement


@pytest.mark.parametrize("cites", [[], [Cite(7, 0, 1)], [Cite(0, 0, 5)], [Cite(0, 2, 1)], [Cite(0, -1, 1)]])
def test_a_note_cites_what_is_there(cites):
    row = NoteStore()[0]
    row.append("text")
    with pytest.raises(LtmError, match="cites"):
        row.add("a note", cites)
    assert not row.notes() and not row.search("note", 1, by="words")


def test_links_lead_to_notes_of_the_row():
    store = NoteStore(2)
    with_letter(store[1])
    event = store[0].append("text")
    with pytest.raises(LtmError, match="links"):
        store[0].add("a note", event, links=[0])


@pytest.mark.parametrize("about", [{"x": float("nan")}, {"x": object()}])
def test_about_is_plain_json(about):
    with pytest.raises(LtmError, match="plain JSON"):
        NoteStore()[0].append("text", about=about)


@pytest.mark.parametrize("text", ["half \ud800 a pair", "a\0b"])
def test_what_is_no_text_is_refused(text):
    row = NoteStore()[0]
    with pytest.raises(LtmError):
        row.append(text)
    event = row.append("fine")
    with pytest.raises(LtmError):
        row.add(text, event)
    assert row.events() == [event] and not row.notes()


def test_a_note_written_anew_is_found_by_what_it_says_now():
    row = hashed(NoteStore())
    _, key, odd = with_letter(row)
    before = row.search("mat", 5, by="meaning")
    assert [found.note for found in before] == [key, odd]
    put = row.put(replace(key, text="The lamp is on the shelf.", about={"moved": True}))
    assert row.note(key.id) == put and row.note(odd.id).links == (key.id,)
    assert not row.search("mat", 1, by="words")
    for by in ("words", "meaning", "hybrid"):
        assert row.search("lamp", 1, by=by)[0].note == put


def test_a_note_whose_words_stay_keeps_its_vector(monkeypatch):
    row = hashed(NoteStore())
    _, key, _ = with_letter(row)
    row.embed()
    monkeypatch.setattr(HashEncoder, "embed", lambda *_: pytest.fail("embedded again"))
    row.put(replace(key, about={"seen": 2}))
    row.embed()


def test_a_deleted_note_takes_links_and_indexes_along():
    row = hashed(NoteStore())
    _, key, odd = with_letter(row)
    row.embed()
    assert row.delete([key.id]) == [key]
    assert row.note(odd.id).links == ()
    for by in ("words", "meaning", "hybrid"):
        assert [found.note.id for found in row.search("the mat key", 5, by=by)] in ([], [odd.id])
    with pytest.raises(LtmError, match="note 0 is not in this row"):
        row.note(key.id)


def test_forgetting_takes_every_note_that_cites_it():
    row = NoteStore()[0]
    letter, key, odd = with_letter(row)
    other = row.append("Ann has a lamp.", source="talk", time=TIME)
    both = row.add("Ann has a lamp and a key.", [other, letter], links=[key.id])
    lamp = row.add("A lamp.", other, links=[both.id])
    gone = row.forget("letter")
    assert gone.events == [letter] and gone.notes == [key, odd, both]
    assert row.notes() == [replace(lamp, links=())] and row.sources == ["talk"]
    with pytest.raises(LtmError, match="no source 'letter' in this memory; it holds: talk"):
        row.forget("letter")
    with pytest.raises(LtmError, match="its source was forgotten"):
        row.event(letter.id)
    assert row.append("again").id == 2 and row.add("again", other).id == 4  # no id is given twice


def test_rows_have_indexes_and_statistics_of_their_own():
    alone, store = NoteStore(), NoteStore(2)
    for row in (hashed(alone), hashed(store)):
        with_letter(row)
    for number in range(20):  # would make "key" and "mat" common words, and fill the nearest places
        event = store[1].append(f"The key, the mat {number}.", source="letter")
        store[1].add(event.text, event)
    for by in ("words", "meaning", "hybrid"):
        for query in ("key mat", "zebra", "nothing of the kind"):
            assert hashed(store).search(query, 9, by=by) == hashed(alone).search(query, 9, by=by)
    store[1].forget("letter")
    assert store[0].dump() == alone[0].dump() and not store[1].events()
    with pytest.raises(LtmError, match="rows 0 to 1"):
        store[2]


def test_selected_rows_are_copies():
    store = NoteStore(2)
    _, key, _ = with_letter(hashed(store))
    hashed(store).embed()
    store.set_fact("method", "rag")
    chosen = store.select([1, 0, 0])
    assert chosen.num_rows == 3 and chosen.facts == {"method": "rag"}
    assert chosen[1].dump() == chosen[2].dump() == store[0].dump() and not chosen[0].events()
    chosen[1].forget("letter")
    chosen[2].put(replace(key, text="changed"))
    assert store[0].note(key.id) == key and len(chosen[2]) == 2
    assert hashed(chosen, 2).search("zebras", 1) == hashed(store).search("zebras", 1)
    assert chosen[2].append("next").id == 1


def test_a_reset_row_is_as_new():
    store = NoteStore(2)
    for row in (0, 1):
        with_letter(store[row])
    store.reset([0])
    assert store[0].dump() == NoteStore()[0].dump() and store[1].events() and not store.is_empty
    with_letter(store[0])
    assert store[0].dump() == store[1].dump()
    store.reset()
    assert store.is_empty


def test_a_block_that_fails_leaves_no_trace():
    store = NoteStore()
    row = hashed(store)
    with_letter(row)
    row.embed()
    before, found = row.dump(), row.search("mat", 5)

    def fail():
        with store.undone_on_failure():
            other = row.append("Other words entirely.", source="b")
            row.add(other.text, other)
            row.embed()
            row.forget("letter")
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fail()
        assert row.dump() == before and row.search("mat", 5) == found and not row.search("entirely", 5, by="words")
    with store.undone_on_failure():
        with pytest.raises(KeyboardInterrupt):
            fail()
        kept = row.append("kept")
    assert row.events()[-1] == kept and row.event(1) == kept


def test_nbytes_grows_with_what_is_held():
    store = NoteStore()
    empty = store.nbytes
    event = store[0].append("word " * 20_000)
    hashed(store).add(event.text, event)
    assert store.nbytes > empty + 200_000
    with_text = store.nbytes
    hashed(store).embed()
    assert store.nbytes > with_text


def test_threads_write_and_search_one_row():
    store = NoteStore()
    failed = []

    def work(name):
        try:
            row = hashed(store)
            for number in range(20):
                with row.transaction():
                    event = row.append(f"{name} said {number}", source=name)
                    row.add(event.text, event)
                    assert len(row.events()) == len(row)  # nobody else's half
                assert row.search(f"{name} said {number}", 1)[0].note.text.startswith("t")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    row = hashed(store)
    assert len(row) == 80 and [note.id for note in row.notes()] == list(range(80))
    assert len(row.search("said", 100, by="words")) == len(row.search("said", 100, by="meaning")) == 80


def test_an_error_of_sqlite_is_one_line(monkeypatch):
    store = NoteStore()

    class Full:
        def execute(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store.database, "_connection", Full())
    with pytest.raises(LtmError, match="the disk is full; free some space"):
        store[0].append("text")
