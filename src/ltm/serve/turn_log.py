"""What one user's conversations said, turn by turn: verbatim, each once, on the disk before anything is made of it.

Clients send the whole history again with each request. A turn is known by a hash of itself and all turns before it, so
that of a history only its new end is written, an edited one branches off where it was edited, and an answer that is
asked for again writes nothing twice. What was forgotten stays known without its text: a client that sends it again does
not bring it back.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ltm.notes.database import Database
from ltm.serve.audit import keep_audit
from ltm.serve.keys import stamp

TURNS = "turns.sqlite3"
COLUMNS = "number, hash, role, text, time, first, replaced, reason, parent"
CURRENT = "NOT forgotten AND replaced IS NULL"
"""What is in force: neither forgotten nor corrected since."""
ROLES = ("user", "assistant")
"""Whose turns are remembered: what a system prompt, a tool or a memory put in was said by nobody."""
DOCUMENT = "document"
"""The role of a piece of a document that a user gave to be read (`document_log`)."""


class TurnDatabase(Database):
    """Turns of one user, and which of them lie in which memory."""

    KIND, APPLICATION_ID, VERSION = "log of turns", 0x6C746D74, 1  # "ltmt"
    JOURNAL = "WAL"  # one sync for what is said in a request
    SCHEMA = """
    CREATE TABLE turns (
        number INTEGER PRIMARY KEY AUTOINCREMENT, hash TEXT NOT NULL UNIQUE, parent TEXT NOT NULL, role TEXT NOT NULL,
        text TEXT NOT NULL, time TEXT NOT NULL, session TEXT, first TEXT NOT NULL, replaced TEXT, reason TEXT,
        forgotten INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX turns_after_another ON turns (parent);
    CREATE INDEX versions_of_a_turn ON turns (first);
    CREATE TABLE held (turn INTEGER NOT NULL, memory TEXT NOT NULL, PRIMARY KEY (turn, memory)) WITHOUT ROWID;
    """


@dataclass(frozen=True)
class LoggedTurn:
    """A turn as it was said: number in the log, hash with its predecessors, role, text, time (ISO 8601, UTC).

    first: hash of the turn of which this is a version, by which all its versions have one id; its own where it is the
    first. replaced: when another version came in its place; reason: why this one was written.
    """

    number: int
    hash: str
    role: str
    text: str
    time: str
    first: str
    replaced: str | None = None
    reason: str | None = None
    parent: str = ""

    @property
    def is_alone(self) -> bool:
        """Whether it was added, or written in place of another one, and not said in a conversation."""
        return not self.parent

    @property
    def id(self) -> str:
        """By which clients know it."""
        return f"mem_{self.first[:16]}"

    @property
    def version(self) -> str:
        """By which clients know this one of an item's versions."""
        return f"ver_{self.hash[:16]}"

    @property
    def name(self) -> str:
        """Of the document that it is in a memory: who said it and when stands before the model where it is recalled,
        so it is short."""
        return f"{self.role} {self.time[:16].replace('T', ' ')} {self.hash[:8]}"


def said(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(role, text) of the messages that somebody said, in order; not what a memory put in, which is never taken in
    again."""
    return [
        (message["role"], message["content"])
        for message in messages
        if message["role"] in ROLES and message["content"].strip() and not message.get("recalled")
    ]


def chain(
    turns: Sequence[tuple[str, str]], session: str | None = None, after: str | None = None
) -> Iterator[tuple[str, str]]:
    """(parent, hash) of each turn: SHA-256 of role, text and the hash before. session: what the chain begins with; two
    conversations that are named apart share no turn. after: the hash before the first, where the chain does not begin
    here. Blanks at the ends of a text do not count: clients trim them.

    >>> one, two = ([own for _, own in chain([("user", first), ("user", "b")])] for first in "ac")
    >>> len({*one, *two})
    4
    """
    last = after or hashlib.sha256(f"session {session}".encode() if session is not None else b"").hexdigest()
    for role, text in turns:
        parent, last = last, hashlib.sha256("\0".join((last, role, text.strip())).encode()).hexdigest()
        yield parent, last


def places(
    messages: Sequence[Mapping[str, Any]], session: str | None = None, after: str | None = None
) -> list[str | None]:
    """For each message the hash of all turns before it, by which its own can be made again when those are gone; None
    for one that nobody said. Arguments as `chain`."""
    parents = iter([parent for parent, _ in chain(said(messages), session, after)])
    return [next(parents) if said([message]) else None for message in messages]


def _own_hash() -> str:
    """For what is part of no history, and so is never sent again in one."""
    return hashlib.sha256(uuid.uuid4().bytes).hexdigest()


class TurnLog:
    """The log in a user's directory; every call that returns is on the disk.

    >>> log = TurnLog(directory)  # doctest: +SKIP
    >>> [turn.text for turn in log.add([("user", "My cat is Tom."), ("user", "Hello")], now)]  # doctest: +SKIP
    """

    def __init__(self, directory: Path):
        self.database = TurnDatabase.open_or_make(directory / TURNS)
        keep_audit(self.database)

    def close(self) -> None:
        self.database.close()

    def add(
        self,
        turns: Sequence[tuple[str, str]],
        now: datetime,
        session: str | None = None,
        answer: str | None = None,
        after: str | None = None,
    ) -> list[LoggedTurn]:
        """Write what is new of a history, and its answer; returns what was written, in order.

        session, after: as `chain`.
        answer: what was answered to the last turn. A second answer to the same turn is not written: which of the two
        holds, the history says that goes on from one of them.
        """
        written, whole = [], [*turns, *([] if answer is None or not answer.strip() else [("assistant", answer)])]
        with self.database.transaction():
            for place, (parent, own) in enumerate(chain(whole, session, after)):
                is_answer = place == len(turns)
                if self._is_known(own) or (is_answer and self._is_answered(parent)):
                    continue
                written.append(self._write(own, parent, *whole[place], now, session))
        return written

    def add_alone(self, text: str, now: datetime) -> LoggedTurn:
        """Write a text that belongs to no conversation; one that is there already is not written twice."""
        with self.database.transaction():
            known = self._turns(f"WHERE {CURRENT} AND parent = '' AND hash = first AND text = ? LIMIT 1", text)
            return known[0] if known else self._write(_own_hash(), "", "user", text, now)

    def correct(self, turn: LoggedTurn, text: str, reason: str | None, now: datetime) -> LoggedTurn:
        """Write a version that is in force in place of a turn. It is the user's, whoever said the one before: that one
        stays in the log as it was said."""
        with self.database.transaction():
            self.database.run("UPDATE turns SET replaced = ? WHERE number = ?", (stamp(now), turn.number))
            return self._write(_own_hash(), "", "user", text, now, first=turn.first, reason=reason)

    def _write(
        self,
        own: str,
        parent: str,
        role: str,
        text: str,
        now: datetime,
        session: str | None = None,
        first: str | None = None,
        reason: str | None = None,
    ) -> LoggedTurn:
        values = (own, parent, role, text, stamp(now), session, first or own, reason)
        self.database.run(
            "INSERT INTO turns (hash, parent, role, text, time, session, first, reason) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        number = self.database.value("SELECT last_insert_rowid()")
        return LoggedTurn(number, own, role, text, stamp(now), first or own, None, reason, parent)

    # which memory holds what

    def waiting(self, memory: str, roles: Sequence[str] = ROLES, limit: int = -1) -> list[LoggedTurn]:
        """Turns of these roles that a memory does not hold yet, in the order they were said; limit: the first so
        many."""
        missing = f"{CURRENT} AND number NOT IN (SELECT turn FROM held WHERE memory = ?)"
        which = ", ".join("?" * len(roles))
        return self._turns(f"WHERE {missing} AND role IN ({which}) ORDER BY number LIMIT ?", memory, *roles, limit)

    def num_waiting(self, memory: str, role: str) -> int:
        """How many there are of a role."""
        missing = f"{CURRENT} AND number NOT IN (SELECT turn FROM held WHERE memory = ?)"
        return self.database.value(f"SELECT count(*) FROM turns WHERE {missing} AND role = ?", (memory, role))

    def outdated(self, memory: str) -> list[LoggedTurn]:
        """Turns that a memory holds and should not any more: forgotten, or corrected since."""
        return self._turns(f"WHERE NOT ({CURRENT}) AND number IN (SELECT turn FROM held WHERE memory = ?)", memory)

    def memories_outdated(self) -> list[str]:
        """Memories, of this and other models, that hold any such."""
        rows = self.database.run(
            f"SELECT DISTINCT memory FROM held JOIN turns ON number = turn WHERE NOT ({CURRENT}) ORDER BY memory"
        )
        return [memory for (memory,) in rows]

    def note_held(self, turn: LoggedTurn, memory: str) -> None:
        """Note that a memory holds a turn now, on its disk."""
        self.database.run("INSERT OR IGNORE INTO held VALUES (?, ?)", (turn.number, memory))

    def note_dropped(self, memory: str, turn: LoggedTurn | None = None) -> None:
        """Note that a memory does not hold a turn any more; None: nothing at all."""
        which, values = ("", ()) if turn is None else (" AND turn = ?", (turn.number,))
        self.database.run(f"DELETE FROM held WHERE memory = ?{which}", (memory, *values))

    # forgetting

    def before(self, time: datetime) -> list[LoggedTurn]:
        """Turns of before a time that are not forgotten."""
        return self._turns("WHERE NOT forgotten AND time < ? ORDER BY number", stamp(time))

    def of_session(self, session: str) -> list[LoggedTurn]:
        """Turns of a conversation that was named so and that are not forgotten."""
        return self._turns("WHERE NOT forgotten AND session = ? ORDER BY number", session)

    def all(self) -> list[LoggedTurn]:
        """Turns that are not forgotten, in order, versions that were corrected included."""
        return self._turns("WHERE NOT forgotten ORDER BY number")

    def forget(self, turns: Sequence[LoggedTurn]) -> None:
        """Delete their texts; that they were said stays known."""
        with self.database.transaction():
            for turn in turns:
                self.database.run(
                    "UPDATE turns SET text = '', reason = NULL, forgotten = 1 WHERE number = ?", (turn.number,)
                )
        self.database.settle()

    # looking up

    def by_id(self, turn: str) -> LoggedTurn | None:
        """The version in force of a turn by its id; None where there is none, or it is forgotten."""
        found = self._beginning("first", turn.removeprefix("mem_"))
        return next((one for one in found if one.id == turn), None)

    def by_hash(self, own: str) -> LoggedTurn | None:
        """A turn by its whole hash; None where there is none, or it is forgotten."""
        return next(iter(self._turns("WHERE NOT forgotten AND hash = ?", own)), None)

    def by_name(self, name: str) -> LoggedTurn | None:
        """A turn in force by the name of its document."""
        return next((one for one in self._beginning("hash", name.rpartition(" ")[2]) if one.name == name), None)

    def _beginning(self, column: str, start: str) -> list[LoggedTurn]:
        """Turns in force whose hash, or that of the first version, begins so."""
        return self._turns(f"WHERE {CURRENT} AND {column} >= ? AND {column} < ?", start, f"{start}g")

    def versions(self, turn: LoggedTurn) -> list[LoggedTurn]:
        """All versions of a turn that are not forgotten, oldest first."""
        return self._turns("WHERE NOT forgotten AND first = ? ORDER BY number", turn.first)

    def all_versions(self, turn: LoggedTurn) -> list[LoggedTurn]:
        """As `versions`, with those that were redacted, whose text is empty."""
        return self._turns("WHERE first = ? ORDER BY number", turn.first)

    def page(self, limit: int, after: str | None = None, newest_first: bool = False) -> list[LoggedTurn]:
        """So many turns in force, in the order they were first said, that come after the one of an id; not the pieces
        of documents. A cursor stays
        good when its turn is corrected or forgotten. Raises KeyError for an id that never was."""
        way, order = ("<", "DESC") if newest_first else (">", "ASC")
        start = self._place(after) if after is not None else 2**62 if newest_first else 0
        rows = self.database.run(
            f"SELECT {', '.join(f'own.{name.strip()}' for name in COLUMNS.split(','))} FROM turns AS one "
            "JOIN turns AS own ON own.first = one.hash AND NOT own.forgotten AND own.replaced IS NULL "
            f"WHERE own.role <> '{DOCUMENT}' AND one.number {way} ? ORDER BY one.number {order} LIMIT ?",
            (start, limit),
        )
        return [LoggedTurn(*row) for row in rows]

    def _place(self, turn: str) -> int:
        start = turn.removeprefix("mem_")
        rows = self.database.run("SELECT number, hash FROM turns WHERE hash >= ? AND hash < ?", (start, f"{start}g"))
        found = [number for number, own in rows if f"mem_{own[:16]}" == turn]
        if not found:
            raise KeyError(turn)
        return found[0]

    def in_force(self, roles: Sequence[str] = ROLES) -> list[LoggedTurn]:
        """All turns of some roles in force, in the order their versions were written."""
        return [turn for turn in self._turns(f"WHERE {CURRENT} ORDER BY number") if turn.role in roles]

    def around(self, turn: LoggedTurn, count: int) -> list[LoggedTurn]:
        """A turn between up to so many before and after it in its conversation, each as it is in force; of several
        branches after it the latest."""
        before = self._walk(turn.first, "SELECT parent FROM turns WHERE hash = ?", count)
        after = self._walk(turn.first, "SELECT hash FROM turns WHERE parent = ? ORDER BY number DESC", count)
        hashes = [*reversed(before), turn.first, *after]
        return [one for own in hashes for one in self._turns(f"WHERE {CURRENT} AND first = ?", own)]

    def _walk(self, own: str, step: str, count: int) -> list[str]:
        passed: list[str] = []
        while len(passed) < count and (following := self.database.value(step, (own,))):
            passed.append(following)
            own = following
        return passed

    def num_holding(self, text: str) -> int:
        """Turns, corrected ones included, whose text holds some words."""
        return self.database.value("SELECT count(*) FROM turns WHERE NOT forgotten AND instr(text, ?)", (text,))

    @property
    def num_turns(self) -> int:
        return self.database.value(f"SELECT count(*) FROM turns WHERE {CURRENT}")

    def _turns(self, condition: str, *values: Any) -> list[LoggedTurn]:
        return [LoggedTurn(*row) for row in self.database.run(f"SELECT {COLUMNS} FROM turns {condition}", values)]

    def _is_known(self, own: str) -> bool:
        return self.database.value("SELECT 1 FROM turns WHERE hash = ?", (own,)) is not None

    def _is_answered(self, parent: str) -> bool:
        statement = "SELECT 1 FROM turns WHERE parent = ? AND role = 'assistant'"
        return self.database.value(statement, (parent,)) is not None
