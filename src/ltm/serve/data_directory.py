"""What can be done with the users of a data directory while no server runs, and without a model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ltm.errors import LtmError
from ltm.serve.archive import write_archive
from ltm.serve.archive_rows import Rows, Taken, kept_rows, turn_rows
from ltm.serve.identity import Caller
from ltm.serve.importers import Read
from ltm.serve.importing import finish_all, take_in
from ltm.serve.keys import KeyStore, KnownUser
from ltm.serve.own_directory import OwnDirectory
from ltm.serve.replays import REPLAYS, Replays
from ltm.serve.response_store import ResponseStore
from ltm.serve.turn_log import TURNS, TurnLog
from ltm.serve.users import USERS


@dataclass(frozen=True)
class StoredUser(KnownUser):
    """Who has a memory, with items in force and bytes on the disk."""

    items: int
    nbytes: int


class DataDirectory:
    """The users of a data directory. In a block of `owned`, nobody else writes to it.

    >>> with DataDirectory.owned(directory) as data: data.delete("ann")  # doctest: +SKIP
    """

    def __init__(self, directory: Path, keys: KeyStore):
        self.keys, self.directory = keys, directory / USERS

    @classmethod
    @contextmanager
    def owned(cls, directory: Path) -> Iterator[DataDirectory]:
        """Raises LtmError for one that a running server owns."""
        with OwnDirectory(directory) as owned, closing(KeyStore(owned.directory)) as keys:
            made = cls(owned.directory, keys)
            finish_all(made.directory)
            yield made

    def users(self, **page: Any) -> list[StoredUser]:
        """All of them, in the order they came, or a page as `KeyStore.users` takes it; a running server does not
        mind."""
        found = []
        for one in self.keys.users(**page):
            items, nbytes = self._size(self.directory / one.id)
            found.append(StoredUser(**asdict(one), items=items, nbytes=nbytes))
        return found

    def _size(self, directory: Path) -> tuple[int, int]:
        items = 0
        if (directory / TURNS).exists():
            with closing(TurnLog(directory)) as log:
                items = log.num_turns
        return items, sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())

    def export(self, caller: Caller, file: IO[bytes], *, with_memories: bool = True) -> dict[str, Any]:
        """Write all of a user's namespace to a zip; its manifest. Raises LtmError for a user who is not there."""
        place = self._place(caller)
        with closing(TurnLog(place)) as log, closing(ResponseStore(place, make=False)) as store:
            outdated = log.memories_outdated()  # one that still holds what was deleted
            memories = [path for path in sorted(place.iterdir()) if path.is_dir() and path.name[0] != "."]
            kept = [path for path in memories if path.name not in outdated] if with_memories else []
            return write_archive(file, rows_of(log, store), kept)

    def take_in(self, caller: Caller, read: Read, file: IO[bytes] | None, *, restore: bool = False) -> Taken:
        """Add what a file holds to a user's namespace, which is made where it is missing."""
        assert caller.user is not None
        name = caller.directory(self.keys.secret)
        self.keys.note_user(name, caller.tenant, caller.user, caller.namespace)
        place = self.directory / name
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with closing(TurnLog(place)) as log:
            return take_in(place, read.rows, log, restore=restore, file=file, archive=read.archive)

    def delete(self, user: str, tenant: str = "default", namespace: str | None = None) -> int:
        """Delete a user with all that is stored of them (namespace: of one alone), and that they were there; how many
        namespaces those were. Keys stay. Raises LtmError for a user who is not there."""
        rows = self.keys.database.run("SELECT directory, tenant, user, namespace FROM users")
        found = [row[0] for row in rows if row[1:3] == (tenant, user) and namespace in (None, row[3])]
        if not found:
            raise self._missing(user)
        for name in found:
            self._forget_replays(name)
            gone = self.directory / f".gone-{name}"
            if (self.directory / name).exists():
                os.replace(self.directory / name, gone)
            self.keys.database.run("DELETE FROM users WHERE directory = ?", (name,))
            shutil.rmtree(gone, ignore_errors=True)
            with closing(Replays(self.directory.parent)) as replays:
                replays.forget(name)
        return len(found)

    def _forget_replays(self, name: str) -> None:
        """Answers that were kept for retries."""
        if (self.directory.parent / REPLAYS).exists():
            with closing(Replays(self.directory.parent)) as replays:
                replays.forget(name)

    def _place(self, caller: Caller) -> Path:
        place = self.directory / caller.directory(self.keys.secret)
        if not place.exists():
            raise self._missing(caller.user or "")
        return place

    def _missing(self, user: str) -> LtmError:
        rows = self.keys.database.run("SELECT DISTINCT user FROM users ORDER BY user LIMIT 10")
        known = ", ".join(name[:40] for (name,) in rows) or "none"
        return LtmError(
            f"nothing is stored of a user {user[:40]!r} there; there are: {known}; ltm users list tells more"
        )


def rows_of(log: TurnLog, store: ResponseStore) -> Rows:
    """Everything of a user."""
    return Rows(list(turn_rows(log)), list(kept_rows(store)))
