"""One server to a data directory: the lock that it holds on it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ltm.errors import LtmError
from ltm.serve.keys import stamp, utc_now

LOCK, HOLDER = "server.lock", "server.json"


class OwnDirectory:
    """The lock of the one server that owns a data directory; it dies with its process.

    Raises LtmError, naming the other server, where there is one.

    >>> with OwnDirectory(directory): ...  # doctest: +SKIP
    """

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = directory
        self._lock = FileLock(directory / LOCK, timeout=0, thread_local=False)

    def __enter__(self) -> OwnDirectory:
        try:
            self._lock.acquire()
        except Timeout:
            raise LtmError(
                f"{self.directory} belongs to a running server ({self._holder()}); stop it, or take another --data-dir"
            ) from None
        holder = {"pid": os.getpid(), "since": stamp(utc_now())}
        (self.directory / HOLDER).write_text(json.dumps(holder), encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            (self.directory / HOLDER).unlink()
        self._lock.release()

    def _holder(self) -> str:
        try:
            holder = json.loads((self.directory / HOLDER).read_text(encoding="utf-8"))
            return f"process {int(holder['pid'])}, since {str(holder['since'])[:20]}"
        except (OSError, ValueError, KeyError, TypeError):
            return "its process did not say which it is"
