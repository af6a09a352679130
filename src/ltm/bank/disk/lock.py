"""One writer at a time: the lock that a process holds on a bank's directory while it changes it. Readers need none."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ltm.bank.disk.file_names import HOLDER, LOCK
from ltm.bank.disk.files import is_ours
from ltm.bank.disk.manifest_file import has_bank
from ltm.bank.disk.plain_files import open_plain, plain_stat, read_plain, remove_plain
from ltm.errors import BankError

_held: dict[tuple[int, Path], WriteLock] = {}  # of this process (by its id: a fork holds none), by directory


class WriteLock:
    """Only one process at a time is inside for one directory; within it, as often as it likes.

    The directory is made where it is missing, and removed again if no bank was saved to it. The operating system lets
    go of the lock when the process ends, however it ends. Raises BankError, naming who holds the lock, where another
    process does, and where the path holds something else than a bank.

    >>> with WriteLock(path):  # doctest: +SKIP
    ...     bank = Bank.load(path)
    ...     bank.delete_document(0)
    ...     bank.save(path)
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.place = self.path.resolve()
        self.depth = 0
        self.made: list[Path] = []

    def __enter__(self) -> WriteLock:
        key = (os.getpid(), self.place)
        holder = _held.setdefault(key, self)
        try:
            if holder.depth == 0:
                holder._acquire()
        except BaseException:
            _held.pop(key, None)
            raise
        holder.depth += 1
        return holder

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        key = (os.getpid(), self.place)
        holder = _held.get(key, self)
        holder.depth -= 1
        if holder.depth == 0:
            _held.pop(key, None)
            holder._release()

    def _acquire(self) -> None:
        check_place(self.path)
        missing = [directory for directory in (self.path, *self.path.parents) if not directory.exists()]
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True)
            self.made.append(directory)
        self.lock = FileLock(self.path / LOCK, timeout=0, thread_local=False)
        try:
            _check_lock_file(self.path)
            self.lock.acquire()
        except Timeout:
            raise BankError(
                f"{self.path} is being written to by {describe_holder(self.path)}; wait until it is done, or end it"
            ) from None
        except (OSError, BankError):
            self._remove_made()
            raise
        with suppress(OSError):  # it only tells others who; a full disk fails at what matters
            with suppress(FileNotFoundError):  # of one that died; or a link to somebody's file
                remove_plain(self.path, HOLDER)
            with open_plain(self.path, HOLDER, "xb") as file:
                file.write(json.dumps(_myself()).encode())

    def _release(self) -> None:
        with suppress(OSError):
            remove_plain(self.path, HOLDER)
        if self.made and not has_bank(self.path):
            with suppress(OSError):
                remove_plain(self.path, LOCK)
        self.lock.release()
        if not has_bank(self.path):
            self._remove_made()

    def _remove_made(self) -> None:
        for directory in reversed(self.made):
            with suppress(OSError):  # it is not empty
                directory.rmdir()
        self.made = []


def check_place(path: Path) -> None:
    """Raise BankError where a path holds something else than a bank."""
    if path.exists() and not path.is_dir():
        raise BankError(f"{path} is a file; give a directory for the bank")
    try:
        is_free = not path.is_dir() or has_bank(path) or is_ours(path)
    except OSError as error:
        raise BankError(f"{path} cannot be looked into: {error.strerror}; give another directory") from error
    if not is_free:
        raise BankError(f"{path} is a directory with other files and no bank; give a new one")


def _check_lock_file(path: Path) -> None:
    """Raise BankError where the file that is about to be opened as the lock is none: it is always an empty file."""
    try:
        is_lock = plain_stat(path, LOCK).st_size == 0
        why = "it is not empty"
    except FileNotFoundError:
        return
    except OSError as error:
        is_lock, why = False, str(error.strerror)
    if not is_lock:
        raise BankError(f"{path / LOCK} is not a bank's lock: {why}; remove it")


def describe_holder(path: Path) -> str:
    """Who wrote down last that it writes to a bank."""
    try:
        holder = json.loads(read_plain(path, HOLDER, 4096))
        return f"process {holder['pid']} on {holder['host']} ({holder['command']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _myself() -> dict[str, Any]:
    """Of this process, for others to read."""
    words = [Path(word).name for word in sys.argv[:3] if word] or ["python"]
    since = datetime.now().isoformat(" ", timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(words), "since": since}
