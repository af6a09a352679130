"""Asking the system at once for all that opening a bank will read, before it is read piece by piece.

A page of a mapped file that is not in memory yet is waited for, and a field of a shard is a mapping of its own: a cold
bank of 4M tokens took 1.5 to 3 s to open, all of it waiting. A disk answers many requests in hardly more time than one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from ltm.bank.disk.plain_files import open_plain

HEADER_BYTES = 64 * 2**10
"""Asked for at the beginning of a shard before its header is read."""
TOGETHER = 128
"""Shards that are open at a time."""


def read_ahead(path: Path, shards: Sequence[str], fields: Collection[str]) -> None:
    """Ask for the headers of a bank's shards, for these fields of them, and for the first page of every other field.

    A hint, where the system takes any (Linux): what is wrong with a file shows when it is read.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for first in range(0, len(shards), TOGETHER):
        with ExitStack() as files:
            handles = []
            for shard in shards[first : first + TOGETHER]:
                with suppress(OSError):
                    handles.append(files.enter_context(open_plain(path, shard)).fileno())
            for handle in handles:
                _ask(handle, 0, HEADER_BYTES)
            for handle in handles:
                with suppress(Exception):  # not a header, in whatever way
                    _ask_for_fields(handle, fields)


def _ask_for_fields(handle: int, fields: Collection[str]) -> None:
    size = int.from_bytes(os.pread(handle, 8, 0), "little")
    header = json.loads(os.pread(handle, min(size, HEADER_BYTES), 8))
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            _ask(handle, 8 + size + begin, end - begin if name in fields else 1)


def _ask(handle: int, start: int, size: int) -> None:
    os.posix_fadvise(handle, start, size, os.POSIX_FADV_WILLNEED)
