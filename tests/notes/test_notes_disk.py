"""A store on disk: what is acknowledged stays, what is forgotten goes from every byte, what is foreign is refused."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from ltm.errors import LtmError
from ltm.notes.database import Database
from ltm.notes.encoder import HashEncoder
from ltm.notes.store import FILE, NoteStore

HASH = HashEncoder()
# Words of which none begins like another, since an index keeps of each word what the one before did not begin with.
SECRET = "Bramble dunks Quixotic jumpers, forty-vexed Wymondham glyphs."


def fill(row, source, text):
    event = row.append(text, source=source, time="2026-01-02")
    note = row.add(text, event, key=f"{text} key", about={"said": text})
    row.embed()
    return note


def bytes_of(path):
    return b"".join(file.read_bytes() for file in sorted(path.iterdir())).lower()


def hashed(store, row=0):
    return store.row(row, lambda: HASH)


def in_another_process(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout.strip(), done.stderr


def test_a_store_in_a_directory_is_there_after_the_process(tmp_path):
    store = NoteStore.open(tmp_path / "new" / "store", num_rows=2)
    note = fill(hashed(store, 1), "a", SECRET)
    store.set_fact("method", {"name": "rag"})
    code = (
        "import sys; from ltm.notes.store import NoteStore; s = NoteStore.open(sys.argv[1]);"
        "print(s.num_rows, s.facts, s[1].note(0).text, len(s[1].search('quixotic', 1, by='words')))"
    )
    assert in_another_process(code, tmp_path / "new" / "store")[1] == f"2 {{'method': {{'name': 'rag'}}}} {note.text} 1"


def test_saved_and_loaded_is_equal_and_apart(tmp_path):
    store = NoteStore(2)
    fill(hashed(store), "a", SECRET)
    store.save(tmp_path)
    loaded = NoteStore.load(tmp_path)
    assert loaded[0].dump() == store[0].dump() and loaded.num_rows == 2
    assert hashed(loaded).search("bramble", 1) == hashed(store).search("bramble", 1)
    loaded[0].forget("a")
    assert NoteStore.load(tmp_path)[0].dump() == store[0].dump()
    loaded.save(tmp_path)
    assert not NoteStore.load(tmp_path)[0].events()


def test_saving_where_a_store_lies_leaves_those_who_have_it_open_with_the_new_one(tmp_path):
    there = NoteStore.open(tmp_path)
    fill(hashed(there), "old", SECRET)
    other = NoteStore()
    note = fill(hashed(other), "new", "Something else.")
    other.save(tmp_path)
    assert hashed(there).search("bramble else", 5)[0].note == note and there[0].sources == ["new"]
    fill(hashed(there), "more", "And more.")
    assert NoteStore.load(tmp_path)[0].sources == ["new", "more"]
    there.save(tmp_path)  # where it lies: nothing to do
    assert b"wymondham" not in bytes_of(tmp_path)


def test_what_is_forgotten_is_in_no_byte_of_the_directory(tmp_path):
    store = NoteStore.open(tmp_path)
    row = hashed(store)
    kept = fill(row, "kept", "The lamp is on the shelf.")
    words = [word.strip(",.").encode() for word in SECRET.lower().split()]
    with row.transaction():
        for number in range(30):
            fill(row, "secret", f"{SECRET} {number}")
            fill(row, f"other {number}", f"Other text {number}.")
    before = bytes_of(tmp_path)
    assert all(word in before for word in words)
    row.forget("secret")
    after = bytes_of(tmp_path)
    assert [word for word in words if word in after] == []
    assert row.search("lamp", 1)[0].note == kept and len(row) == 31
    vector = HASH.embed([f"{SECRET} 3 key"])[0].numpy().tobytes().lower()
    assert vector[:64] in before and vector[:64] not in after
    store.reset()
    assert b"lamp" not in bytes_of(tmp_path)


def test_a_note_written_anew_leaves_nothing_behind_once_its_source_is_forgotten(tmp_path):
    from dataclasses import replace

    store = NoteStore.open(tmp_path)
    row = hashed(store)
    note = fill(row, "secret", SECRET)
    row.put(replace(note, text="rewritten", key="", about={}))
    row.forget("secret")
    after = bytes_of(tmp_path)
    assert [word for word in (b"bramble", b"quixotic", b"wymondham", b"glyph") if word in after] == []


def test_what_is_forgotten_frees_its_bytes(tmp_path):
    store = NoteStore.open(tmp_path)
    empty = (tmp_path / FILE).stat().st_size
    with store.undone_on_failure():
        fill(hashed(store), "long", "word " * 200_000)
    assert (tmp_path / FILE).stat().st_size > empty + 2_000_000
    store[0].forget("long")
    assert (tmp_path / FILE).stat().st_size < empty + 50_000 and b"word word" not in bytes_of(tmp_path)


def test_another_process_sees_what_is_written_and_the_vectors_follow(tmp_path):
    store = NoteStore.open(tmp_path)
    fill(hashed(store), "a", "one lamp")
    assert len(hashed(store).search("lamp", 9, by="meaning")) == 1
    code = (
        "import sys; from ltm.notes.store import NoteStore; r = NoteStore.open(sys.argv[1])[0];"
        "e = r.append('two lamps', source='b'); r.add(e.text, e); r.forget('a')"
    )
    assert in_another_process(code, tmp_path)[0] == 0
    assert [found.note.text for found in hashed(store).search("lamp", 9, by="meaning")] == ["two lamps"]


WRITER = """
import os, signal, sys
from ltm.notes.store import NoteStore
row = NoteStore.open(sys.argv[1])[0]
for number in range(20):
    event = row.append(f"said {number}", source=str(number))
    row.add(event.text, event)
    print(number, flush=True)
with row.transaction():
    event = row.append("half", source="half")
    row.add(event.text, event)
    row.forget("0")
    row.database.run("PRAGMA cache_spill = 1")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_all_that_was_acknowledged(tmp_path):
    code, out, _ = in_another_process(WRITER, tmp_path)
    assert code == -signal.SIGKILL and out.splitlines()[-1] == "19"
    row = NoteStore.open(tmp_path)[0]
    assert len(row) == 20 and row.sources == [str(number) for number in range(20)]
    assert row.search("half", 1, by="words") == [] and len(row.search("said", 99, by="words")) == 20


SAVER = """
import os, signal, sqlite3, sys
from ltm.notes import database
from ltm.notes.store import NoteStore
store = NoteStore()
for number in range(300):
    event = store[0].append("new " * 400, source="new")
    store[0].add(event.text, event)

class Killed:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name): return getattr(self.inner, name)
    def backup(self, target):
        def step(status, remaining, total):
            if remaining < total // 2:
                os.kill(os.getpid(), signal.SIGKILL)
        self.inner.backup(getattr(target, "inner", target), pages=5, progress=step)

store.database._connection = Killed(store.database._connection)
store.save(sys.argv[1])
"""


@pytest.mark.parametrize("earlier", [False, True], ids=["nothing before", "a store before"])
def test_a_killed_save_leaves_what_was_there(tmp_path, earlier):
    if earlier:
        store = NoteStore()
        for number in range(200):
            fill(hashed(store), "old", f"{SECRET} {number}")
        store.save(tmp_path)
    assert in_another_process(SAVER, tmp_path)[0] == -signal.SIGKILL
    if earlier:
        assert NoteStore.load(tmp_path)[0].dump() == store[0].dump()
    else:
        assert not NoteStore.exists(tmp_path)
    other = NoteStore()
    fill(hashed(other), "new", "Something else.")
    other.save(tmp_path)  # what the killed one left is in nobody's way
    assert NoteStore.load(tmp_path)[0].sources == ["new"]


def test_nothing_is_made_of_another_kind_of_file(tmp_path):
    (tmp_path / FILE).write_bytes(b"this is no database, but some bytes that somebody keeps here" * 50)
    before = bytes_of(tmp_path)
    for use in (NoteStore.open, NoteStore.load, NoteStore().save):
        with pytest.raises(LtmError, match="is no store of notes"):
            use(tmp_path)
    assert bytes_of(tmp_path) == before


def test_another_sqlite_file_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE rows (x)")
    connection.close()
    before = bytes_of(tmp_path)
    for use in (NoteStore.open, NoteStore.load, NoteStore().save):
        with pytest.raises(LtmError, match="another SQLite file"):
            use(tmp_path)
    assert bytes_of(tmp_path) == before


def test_another_version_is_refused(tmp_path):
    NoteStore.open(tmp_path).database.run("PRAGMA user_version = 7")
    with pytest.raises(LtmError, match="of version 7; this ltm reads version 1"):
        NoteStore.open(tmp_path)


def test_a_damaged_file_is_told_in_one_line(tmp_path):
    store = NoteStore.open(tmp_path)
    with store.undone_on_failure():
        for number in range(20):
            fill(hashed(store), "a", SECRET * 10 + str(number))
    store.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[8192:40960] = os.urandom(32768)
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(LtmError, match="damaged|malformed") as caught:
        NoteStore.open(tmp_path)[0].dump()
    assert "\n" not in str(caught.value)


def test_a_directory_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    for use in (NoteStore.open, NoteStore().save):
        with pytest.raises(LtmError, match="other files and no store of notes"):
            use(tmp_path)
    with pytest.raises(LtmError, match="is a file"):
        NoteStore.open(tmp_path / "letter.txt")
    with pytest.raises(LtmError, match="is not there"):
        NoteStore.load(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_store_that_another_process_writes_to_is_waited_for_then_told(tmp_path, monkeypatch):
    monkeypatch.setattr("ltm.notes.database.BUSY_SECONDS", 0.05)
    first, second = NoteStore.open(tmp_path), NoteStore.open(tmp_path)
    with first.undone_on_failure():
        first[0].append("one")
        with pytest.raises(LtmError, match="another process is writing to it"):
            second[0].append("two")
    assert [event.text for event in second[0].events()] == ["one"]
    second[0].append("two")


def test_a_store_that_may_only_be_read_is_read(tmp_path):
    store = NoteStore.open(tmp_path)
    note = fill(hashed(store), "a", SECRET)
    store.close()
    uri = f"file:{tmp_path / FILE}?mode=ro"
    database = Database.__new__(Database)
    real = sqlite3.connect

    def read_only(_, **options):
        return real(uri, uri=True, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", read_only)
        store = NoteStore.open(tmp_path)
    del database
    assert hashed(store).search("bramble", 1)[0].note == note
    with pytest.raises(LtmError, match="cannot be written to"):
        store[0].append("more")


def test_a_search_sees_one_state_whatever_another_process_writes(tmp_path, monkeypatch):
    store, other = NoteStore.open(tmp_path), NoteStore.open(tmp_path)
    note = fill(hashed(store), "a", SECRET)
    row = hashed(store)
    row.search("bramble", 1)
    by_words, refused = row._search._by_words, []

    def meanwhile(*asked):
        found = by_words(*asked)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ltm.notes.database.BUSY_SECONDS", 0.05)
            with pytest.raises(LtmError, match="locked"):
                hashed(NoteStore.open(tmp_path)).forget("a")
            refused.append(1)
        return found

    monkeypatch.setattr(row._search, "_by_words", meanwhile)
    assert [found.note for found in row.search("bramble", 1)] == [note] and refused
    assert other[0].forget("a").notes == [note]


class Shelf(Database):
    """A database with tables of its own."""

    KIND, APPLICATION_ID, SCHEMA = "shelf", 0x6C746D30, "CREATE TABLE books (name TEXT);"


def test_a_database_of_another_kind_has_its_own_tables_and_is_refused_as_a_store_of_notes(tmp_path):
    file = tmp_path / "shelf.sqlite3"
    for name in ("Emma", "Ulysses"):  # made, and opened again
        with closing(Shelf.open_or_make(file)) as shelf:
            shelf.run("INSERT INTO books VALUES (?)", (name,))
    with closing(Shelf.open(file)) as shelf:
        assert shelf.run("SELECT name FROM books") == [("Emma",), ("Ulysses",)]
        with closing(shelf.copy()) as copy:
            assert type(copy) is Shelf and copy.value("SELECT count(*) FROM books") == 2
    with pytest.raises(LtmError, match="is no store of notes, but another SQLite file"):
        Database.open(file)
    with closing(Database.new()) as notes:
        notes.copy_to(tmp_path / "notes.sqlite3")
    with pytest.raises(LtmError, match="is no shelf, but another SQLite file"):
        Shelf.open(tmp_path / "notes.sqlite3")
