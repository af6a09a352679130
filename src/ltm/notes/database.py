"""A SQLite file of ours, such as the one under a store of notes: opened, checked, copied, and used by one thread at a
time.

The journal is SQLite's rollback journal, truncated at each commit, and not its write-ahead log, unless a class says
otherwise: what was deleted then lies in no file once a deletion returns, whoever else reads, and a store can be read
where nothing can be written.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, TypeVar

from ltm.errors import LtmError

BUSY_SECONDS = 10.0
"""How long a statement waits for another process."""

NOTES = """
CREATE TABLE rows (row INTEGER PRIMARY KEY, next_event INTEGER NOT NULL, next_note INTEGER NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE events (
    number INTEGER PRIMARY KEY, row INTEGER NOT NULL, id INTEGER NOT NULL, source TEXT NOT NULL, role TEXT NOT NULL,
    time TEXT NOT NULL, about TEXT NOT NULL, chars INTEGER NOT NULL, text TEXT NOT NULL, UNIQUE (row, id));
CREATE INDEX events_of_a_source ON events (row, source);
CREATE TRIGGER events_are_never_rewritten BEFORE UPDATE ON events
    BEGIN SELECT RAISE (ABORT, 'an event is never rewritten'); END;
CREATE TABLE notes (
    number INTEGER PRIMARY KEY, row INTEGER NOT NULL, id INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
    about TEXT NOT NULL, text TEXT NOT NULL,
    searched TEXT GENERATED ALWAYS AS (CASE key WHEN '' THEN text ELSE key END) VIRTUAL, UNIQUE (row, id));
CREATE TABLE cites (
    row INTEGER NOT NULL, note INTEGER NOT NULL, place INTEGER NOT NULL, event INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (row, note, place)) WITHOUT ROWID;
CREATE INDEX cites_of_an_event ON cites (row, event);
CREATE TABLE links (
    row INTEGER NOT NULL, note INTEGER NOT NULL, place INTEGER NOT NULL, other INTEGER NOT NULL,
    PRIMARY KEY (row, note, place)) WITHOUT ROWID;
CREATE INDEX links_to_a_note ON links (row, other);
CREATE TABLE vectors (number INTEGER PRIMARY KEY, encoder TEXT NOT NULL, vector BLOB NOT NULL);
"""

Self = TypeVar("Self", bound="Database")


class Database:
    """One connection for all threads of a process; each of its calls, and each block of `transaction`, runs alone.

    path: the file; None: in memory. Raises LtmError, in one line, for whatever SQLite refuses. A class with other
    tables says what it holds, its schema and its own mark.
    """

    KIND: ClassVar[str] = "store of notes"
    """What a person is told that it is."""
    APPLICATION_ID: ClassVar[int] = 0x6C746D6E
    """What marks a SQLite file as one of this kind: "ltmn"."""
    VERSION: ClassVar[int] = 1
    """Of the tables; a file of another version is refused."""
    SCHEMA: ClassVar[str] = NOTES
    JOURNAL: ClassVar[str] = "TRUNCATE"
    """How SQLite undoes what a kill left half done; "WAL" writes sooner, and holds what was deleted until `settle`."""

    def __init__(self, path: Path | None = None):
        self.path, self.lock, self.depth = path, RLock(), 0
        self.undone: list[Callable[[], None]] = []  # called after a transaction was rolled back
        with self._explained():
            self._connection = sqlite3.connect(
                ":memory:" if path is None else path,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            # Freed pages and deleted rows are overwritten, and nothing is sorted in a file elsewhere.
            for setting in ("secure_delete = ON", "temp_store = MEMORY"):
                self._connection.execute(f"PRAGMA {setting}").fetchall()

    @classmethod
    def new(cls: type[Self]) -> Self:
        """A database with empty tables, in memory."""
        made = cls()
        with made._explained():
            made._connection.executescript(
                "PRAGMA auto_vacuum = FULL;"  # what is deleted makes the file smaller, in the same transaction
                f"PRAGMA application_id = {cls.APPLICATION_ID}; PRAGMA user_version = {cls.VERSION}; {cls.SCHEMA}"
            )
        return made

    @classmethod
    def open_or_make(cls: type[Self], path: Path) -> Self:
        """The database in a file, made there with empty tables, or not at all, where there is none."""
        if not path.exists():
            with closing(cls.new()) as empty:
                empty.copy_to(path)
        return cls.open(path)

    @classmethod
    def open(cls: type[Self], path: Path) -> Self:
        """The database in a file; LtmError where it is none of this kind and version, or damaged."""
        if not path.is_file():
            raise LtmError(f"{path} is not there; give the directory of a {cls.KIND}")
        made = cls(path)
        try:
            made._check()
            with suppress(LtmError):  # one that can only be read stays as it is
                made.run(f"PRAGMA journal_mode = {cls.JOURNAL}")
        except BaseException:
            made.close()
            raise
        return made

    def _check(self) -> None:
        marks = {name: self.value(f"PRAGMA {name}") for name in ("application_id", "user_version")}
        if marks["application_id"] != self.APPLICATION_ID:
            raise LtmError(f"{self.path} is no {self.KIND}, but another SQLite file; give another directory")
        if marks["user_version"] != self.VERSION:
            raise LtmError(
                f"{self.path} is a {self.KIND} of version {marks['user_version']}; this ltm reads version "
                f"{self.VERSION}: take the ltm that wrote it, or read the texts again"
            )

    def close(self) -> None:
        """Give the file back; a block that is open is undone."""
        with self.lock:
            self._connection.close()

    def run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple]:
        """All rows of a statement's result."""
        with self.lock, self._explained():
            return self._connection.execute(statement, values).fetchall()

    def run_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """A statement for each row of values."""
        with self.lock, self._explained():
            self._connection.executemany(statement, rows)

    def value(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The first value of the first row; None where there is no row."""
        rows = self.run(statement, values)
        return rows[0][0] if rows else None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A block that no other thread comes into, and that is undone if it ends by an exception; blocks nest. On the
        disk when the outermost ends."""
        with self.lock:
            name = f"block_{self.depth}"
            self.run(f"SAVEPOINT {name}" if self.depth else "BEGIN")
            self.depth += 1
            try:
                yield
                self.run(f"RELEASE {name}" if self.depth > 1 else "COMMIT")
            except BaseException:
                with suppress(LtmError):  # SQLite may have rolled back already: a full disk
                    self.run(f"ROLLBACK TO {name}" if self.depth > 1 else "ROLLBACK")
                    if self.depth > 1:
                        self.run(f"RELEASE {name}")
                for told in self.undone:
                    told()
                raise
            finally:
                self.depth -= 1

    def settle(self) -> None:
        """Bring everything into the file itself, so that what was deleted lies in none beside it."""
        self.run("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def version(self) -> int:
        """Another number after another process has changed the file."""
        return 0 if self.path is None else self.value("PRAGMA data_version")

    @property
    def nbytes(self) -> int:
        """Of the file, or of what is held in memory."""
        return self.value("PRAGMA page_count") * self.value("PRAGMA page_size")

    def copy_to(self, path: Path) -> None:
        """Write everything to a file: a new one beside, then renamed; one that is there already in a transaction of
        its own, so that whoever has it open goes on with what it holds then."""
        if path.exists():
            with closing(self.open(path)) as there:
                self._copy_into(there)
            return
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with closing(type(self)(partial)) as there:
                self._copy_into(there)
            os.replace(partial, path)
        finally:
            for left in (partial, partial.with_name(f"{partial.name}-journal")):
                left.unlink(missing_ok=True)

    def _copy_into(self, other: Database) -> None:
        with self.lock, other._explained():
            if self.depth:
                raise LtmError("a store cannot be saved inside a block that may be undone; save it afterwards")
            self._connection.backup(other._connection)

    def copy(self: Self) -> Self:
        """The same in memory."""
        made = type(self)()
        self._copy_into(made)
        return made

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What SQLite refuses, in one line."""
        where = self.path or f"the {self.KIND}"
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LtmError(f"{where}: {_advice(str(error))}") from error
        except sqlite3.DatabaseError as error:
            raise LtmError(f"{where} is no {self.KIND}, or damaged ({error}); restore it, or read anew") from error


def _advice(message: str) -> str:
    """What can be done about an error of SQLite."""
    known = {
        "locked": "another process is writing to it; wait until it is done",
        "full": "the disk is full; free some space, nothing of the store is lost",
        "readonly": "it cannot be written to; copy it, or change its permissions",
        "fts5": "this Python's SQLite comes without FTS5; take another Python",
    }
    return next((f"{message}; {advice}" for word, advice in known.items() if word in message), message)
