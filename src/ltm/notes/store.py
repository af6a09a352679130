"""NoteStore: a memory of text on SQLite. An event log that is never rewritten, and notes that cite it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.errors import LtmError
from ltm.memory import Memory, Rows
from ltm.notes.database import Database
from ltm.notes.row import NoteRow
from ltm.notes.vectors import VectorCache

if TYPE_CHECKING:
    from ltm.notes.encoder import Encoder

FILE = "notes.sqlite3"
"""The file in a store's directory."""


class NoteStore(Memory):
    """Rows of events and notes that never see each other: other indexes, other counters, other statistics.

    num_rows: of a new store, which lies in memory; `open` gives one that lies in a directory, where every call that
    returns is on the disk. From several threads: each call runs alone, and so does each block of `undone_on_failure`.

    >>> row = NoteStore()[0]
    >>> event = row.append("The key is under the mat.", source="letter")
    >>> note = row.add(event.text, event)
    >>> row.search("where is the key", 1, by="words")[0].note.text
    'The key is under the mat.'
    >>> row.forget("letter").notes == [note], row.notes()
    (True, [])
    """

    def __init__(self, num_rows: int = 1):
        self._use(Database.new())
        self._add_rows(num_rows)

    def _use(self, database: Database) -> None:
        self.database = database
        self._vectors = VectorCache(database)

    @classmethod
    def _on(cls, database: Database) -> NoteStore:
        store = cls.__new__(cls)
        store._use(database)
        return store

    @classmethod
    def open(cls, path: str | Path, num_rows: int = 1) -> NoteStore:
        """The store in a directory, made there if there is none; what is written to it is on the disk at once.

        Raises LtmError where the directory holds something else, or a store of another version.
        """
        file = Path(path) / FILE
        if not file.exists():
            cls(num_rows).save(path)  # with its rows, or not at all
        return cls._on(Database.open(file))

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether a directory holds a store of notes."""
        return (Path(path) / FILE).is_file()

    def close(self) -> None:
        """Give the file back; the store cannot be used afterwards."""
        self.database.close()

    # rows

    @property
    def num_rows(self) -> int:
        return self.database.value("SELECT count(*) FROM rows")

    @property
    def nbytes(self) -> int:
        return self.database.nbytes + self._vectors.nbytes

    def __getitem__(self, row: int) -> NoteRow:
        return self.row(row)

    def row(self, row: int, encoder: Callable[[], Encoder] | None = None) -> NoteRow:
        """What one row holds, to be read and written; encoder: called when a search by meaning first needs it."""
        if not 0 <= row < self.num_rows:
            raise LtmError(f"row {row} is not in this memory; it has rows 0 to {self.num_rows - 1}")
        return NoteRow(self.database, row, self._vectors, encoder)

    def _add_rows(self, count: int) -> None:
        with self.database.transaction():
            for row in range(self.num_rows, self.num_rows + count):
                self.database.run("INSERT INTO rows VALUES (?, 0, 0)", (row,))
                self.database.run(
                    f"CREATE VIRTUAL TABLE words_{row} USING fts5(searched, content='notes', content_rowid='number', "
                    "tokenize='porter unicode61 remove_diacritics 2')"
                )

    # Memory

    @property
    def is_empty(self) -> bool:
        return not self.database.value("SELECT count(*) FROM events")

    def select(self, rows: Rows) -> NoteStore:
        made = NoteStore(len(rows))
        with self.database.transaction(), made.database.transaction():
            for new, old in enumerate(map(int, rows)):
                self.row(old).copy_to(made[new])
            for name, value in self.facts.items():
                made.set_fact(name, value)
        return made

    def reset(self, rows: Rows | None = None) -> None:
        with self.database.transaction():
            for row in range(self.num_rows) if rows is None else map(int, rows):
                self.row(row).clear()

    def save(self, path: str | Path) -> None:
        """Write the store to a directory; nothing to do for one that lies there. A killed process leaves what there
        was before."""
        file = Path(path) / FILE
        if self.database.path is not None and file.exists() and file.samefile(self.database.path):
            return
        _make_directory(Path(path))
        self.database.copy_to(file)

    @classmethod
    def load(cls, path: str | Path, *, device: Any = "cpu", mmap: bool = True) -> NoteStore:
        """A copy in memory of what a directory holds, on the host and not mapped; `open` goes on in the directory
        itself."""
        there = Database.open(Path(path) / FILE)
        try:
            return cls._on(there.copy())
        finally:
            there.close()

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        with self.database.transaction():
            yield

    # facts about the whole store

    @property
    def facts(self) -> dict[str, Any]:
        """What was noted of the store: the method that writes it, its options."""
        return {name: json.loads(value) for name, value in self.database.run("SELECT name, value FROM facts")}

    def set_fact(self, name: str, value: Any) -> None:
        """Note plain JSON values."""
        self.database.run("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))


def _make_directory(path: Path) -> None:
    """A directory for a store; LtmError where there is something else."""
    if path.exists() and not path.is_dir():
        raise LtmError(f"{path} is a file; give a directory for the store of notes")
    if path.is_dir() and not NoteStore.exists(path) and any(not _is_ours(entry.name) for entry in path.iterdir()):
        raise LtmError(f"{path} is a directory with other files and no store of notes; give a new one")
    path.mkdir(parents=True, exist_ok=True)


def _is_ours(name: str) -> bool:
    """What a killed process may have left."""
    return name.lstrip(".").startswith(FILE)
