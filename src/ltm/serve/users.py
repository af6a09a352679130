"""All users' memories: opened when they are needed, closed by least use within a budget, never two at once in one."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Lock, RLock

from ltm.serve.identity import Caller
from ltm.serve.importing import finish_all
from ltm.serve.keys import KeyStore, utc_now
from ltm.serve.replays import Replays
from ltm.serve.response_store import ResponseStore
from ltm.serve.served_model import ServedModel
from ltm.serve.turn_log import TURNS, TurnLog
from ltm.serve.user_memory import UserMemory

logger = logging.getLogger("ltm.serve")
USERS = "users"
"""The folder in the data directory; each user's own within it is named by `Caller.directory`."""


STRIPES = 16
"""Locks that users' responses share: so many are written at once."""


class _Entry:
    """A user's place in the table: open or not, and how many want it now."""

    def __init__(self) -> None:
        self.lock, self.wanted, self.nbytes = RLock(), 0, 0
        self.memory: UserMemory | None = None


class Users:
    """The memories of all users in a data directory.

    budget: bytes of memories that are held open; those in use are never closed. retention: what was said is forgotten
    after so long, looked at whenever a memory is used. told_failure: called with what kept a turn from being taken in;
    it stays in the log. roles: whose turns are taken in. A user waits for nobody but themselves: only what happens in
    one memory is one after another.

    >>> with users.using(caller) as memory: memory.session.ask("Who is Tom?")  # doctest: +SKIP
    """

    def __init__(
        self,
        directory: Path,
        model: ServedModel,
        keys: KeyStore,
        budget: int,
        retention: timedelta | None = None,
        told_failure: Callable[[Exception], None] | None = None,
        roles: Sequence[str] = ("user",),
    ):
        self.directory, self.model, self.keys = directory / USERS, model, keys
        self.budget, self.retention, self.told_failure, self.num_closed = budget, retention, told_failure, 0
        self.roles = roles
        self._secret = keys.secret
        self.replays = Replays(directory, retention)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least lately used first
        self._mutex = Lock()
        self._stripes = [Lock() for _ in range(STRIPES)]
        finish_all(self.directory)

    def directory_of(self, caller: Caller) -> Path:
        """The directory of a user's memory, whether it is there or not. Raises ValueError without a user."""
        return self.directory / caller.directory(self._secret)

    @contextmanager
    def responses(self, caller: Caller, *, make: bool = False) -> Iterator[ResponseStore]:
        """A block that alone uses the responses of a user, which needs neither their memory nor the model; what is too
        old is forgotten. make: whether to make them where there are none; else they are empty, as those of nobody."""
        if caller.user is None:
            with closing(ResponseStore(None)) as store:
                yield store
            return
        name = caller.directory(self._secret)
        place = self.directory / name
        with self._stripes[int(name[:8], 16) % STRIPES]:
            if make:
                self.keys.note_user(name, caller.tenant, caller.user, caller.namespace)
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
            with closing(ResponseStore(place, make=make)) as store:
                if self.retention is not None:
                    store.forget_before(utc_now() - self.retention)
                yield store

    @contextmanager
    def turn_log(self, caller: Caller) -> Iterator[TurnLog | None]:
        """A block with a user's log alone, where the memory cannot be opened; None where there is none."""
        place = None if caller.user is None else self.directory / caller.directory(self._secret)
        if place is None or not (place / TURNS).exists():
            yield None
            return
        with closing(TurnLog(place)) as log:
            yield log

    @contextmanager
    def using(self, caller: Caller) -> Iterator[UserMemory]:
        """A block that alone uses the memory of a user: opened where it is not, what is too old forgotten, all that was
        said taken in. LtmError for one that cannot be opened."""
        name = caller.directory(self._secret)
        entry = self._want(name)
        try:
            with entry.lock:
                if entry.memory is None:
                    entry.memory = self._open(name, caller)
                if self.retention is not None:
                    with self.responses(caller):
                        pass  # whoever opens them finds nothing that is too old
                self._bring_up_to_date(entry.memory)
                try:
                    yield entry.memory
                finally:
                    entry.nbytes = entry.memory.nbytes
        finally:
            self._leave(entry)

    @property
    def num_open(self) -> int:
        with self._mutex:
            return sum(entry.memory is not None for entry in self._entries.values())

    @property
    def nbytes(self) -> int:
        """Of all memories that are open."""
        with self._mutex:
            return self._nbytes()

    def close(self) -> None:
        """Close all; nobody may use one any more."""
        with self._mutex:
            for entry in self._entries.values():
                if entry.memory is not None:
                    entry.memory.close()
            self._entries.clear()
        self.replays.close()

    def _open(self, name: str, caller: Caller) -> UserMemory:
        assert caller.user is not None
        self.keys.note_user(name, caller.tenant, caller.user, caller.namespace)
        return UserMemory(self.directory / name, self.model, self.roles, lambda: self.replays.forget(name))

    def _bring_up_to_date(self, memory: UserMemory) -> None:
        if self.retention is not None:
            memory.forget_before(utc_now() - self.retention)
        failures: list[Exception] = []
        try:
            failures += memory.take_in()
        except OSError as error:  # a full disk: answers can be given all the same
            failures.append(error)
        for failure in failures:
            logger.error("a turn could not be taken into a memory", exc_info=failure)
            if self.told_failure is not None:
                self.told_failure(failure)

    def _want(self, name: str) -> _Entry:
        with self._mutex:
            entry = self._entries.setdefault(name, _Entry())
            self._entries.move_to_end(name)
            entry.wanted += 1
            return entry

    def _leave(self, entry: _Entry) -> None:
        with self._mutex:
            entry.wanted -= 1
            for name in [name for name, one in self._entries.items() if not one.wanted]:
                if self._nbytes() <= self.budget and self._entries[name].memory is not None:
                    break
                closed = self._entries.pop(name)
                if closed.memory is not None:
                    closed.memory.close()
                    self.num_closed += 1

    def _nbytes(self) -> int:
        return sum(entry.nbytes for entry in self._entries.values() if entry.memory is not None)
