"""Answers to writes that a client may ask for again: a retry gets the answer of the first time, also after a restart.

A row is one user's, and holds what was sent; it goes after a day at most (a request with an Idempotency-Key), after ten
minutes (one without), and as soon as anything of that user is forgotten.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Lock

from ltm.errors import LtmError
from ltm.notes.database import Database

REPLAYS = "replays.sqlite3"
KEPT_SECONDS, KEPT_WITHOUT_KEY_SECONDS = 24 * 3600, 600
MOST_BYTES = 1_000_000
"""Of an answer that is kept."""


class ReplayDatabase(Database):
    """Answers, by a hash of what asked for them."""

    KIND, APPLICATION_ID, VERSION = "store of replays", 0x6C746D70, 1  # "ltmp"
    JOURNAL = "WAL"
    SCHEMA = """
    CREATE TABLE replays (
        name TEXT PRIMARY KEY, owner TEXT NOT NULL, body TEXT NOT NULL, until REAL NOT NULL, status INTEGER NOT NULL,
        headers TEXT NOT NULL, answer BLOB NOT NULL) WITHOUT ROWID;
    CREATE INDEX replays_of_a_user ON replays (owner);
    CREATE INDEX replays_by_age ON replays (until);
    """


@dataclass(frozen=True)
class Replay:
    """body: hash of what was asked; status, headers, answer: what was sent."""

    body: str
    status: int
    headers: Sequence[tuple[str, str]]
    answer: bytes


class Replays:
    """The store in a data directory, from any thread. longest: kept no longer, whatever the request.

    >>> Replays(directory).find("name") is None  # doctest: +SKIP
    True
    """

    def __init__(self, directory: Path, longest: timedelta | None = None):
        self.database = ReplayDatabase.open_or_make(directory / REPLAYS)
        self.database.run("PRAGMA synchronous = NORMAL")  # a kill loses none, a power cut the last: it is done anew
        self.longest = KEPT_SECONDS if longest is None else min(KEPT_SECONDS, longest.total_seconds())
        self._forgotten: dict[str, float] = {}  # when something of a user was
        self._lock = Lock()
        self._drop_old()

    def close(self) -> None:
        self.database.close()

    def find(self, name: str) -> Replay | None:
        """What is kept under a name; None once its time is over."""
        rows = self.database.run(
            "SELECT body, status, headers, answer FROM replays WHERE name = ? AND until > ?", (name, time.time())
        )
        if not rows:
            return None
        body, status, headers, answer = rows[0]
        return Replay(body, status, [(key, value) for key, value in json.loads(headers)], bytes(answer))

    def add(self, name: str, owner: str, replay: Replay, seconds: float, began: float) -> None:
        """Keep an answer for so long, unless something of its user was forgotten since it was begun (monotonic)."""
        with self._lock:
            if self._forgotten.get(owner, -1.0) >= began:
                return
            self._drop_old()
            until = time.time() + min(seconds, self.longest)
            row = (name, owner, replay.body, until, replay.status, json.dumps(list(replay.headers)), replay.answer)
            self.database.run("INSERT OR REPLACE INTO replays VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def forget(self, owner: str) -> None:
        """Delete all of a user, who may have had something in them deleted."""
        with self._lock:
            self._forgotten[owner] = time.monotonic()
            if self.database.value("SELECT 1 FROM replays WHERE owner = ? LIMIT 1", (owner,)):
                self.database.run("DELETE FROM replays WHERE owner = ?", (owner,))
                self.database.settle()

    def _drop_old(self) -> None:
        now = time.time()
        if self.database.value("SELECT 1 FROM replays WHERE until <= ? LIMIT 1", (now,)):
            try:
                self.database.run("DELETE FROM replays WHERE until <= ?", (now,))
                self.database.settle()
            except LtmError:  # a full disk: they are not found any more, and go the next time
                return


def name_of(*parts: str) -> str:
    """A hash of what a request is known by.

    >>> name_of("ab", "c") == name_of("a", "bc")
    False
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
