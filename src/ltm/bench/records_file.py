"""The records of one cell as JSON lines: what was set first, then a line for each unit that is done.

A unit is written in one line and flushed to disk, so that it is there whole or not at all: a last line that was torn
by a kill is cut off and its unit run again. A file that is done may be packed (`gzip FILE`); it is read as before, and
unpacked where more is added.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ltm.errors import LtmError
from ltm.tasks.base import Record


class DifferentSetupError(LtmError):
    """The file holds records of another configuration."""


@dataclass(frozen=True)
class Entry:
    """A unit that is done. cost: tokens that were to be taken in; tokens: those that were; seconds: how long."""

    unit: str
    cost: int
    tokens: int
    seconds: float
    records: list[Record]


class RecordsFile:
    """The file of one cell. entries: what is done, by the unit's key, in the order it was done.

    path: .jsonl, made when the first unit is added. setup: what the records depend on, plain JSON values.
    Raises DifferentSetupError where the file was written with another setup, LtmError where it is damaged.
    """

    def __init__(self, path: Path, setup: dict[str, Any]):
        self.path, self.setup = path, json.loads(json.dumps(setup))
        lines, self._good_bytes = _read_lines(path)
        if lines:
            self._check(lines[0])
        self.entries = {line["unit"]: Entry(**line) for line in lines[1:]}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside the block `add` writes, and no other process does."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists() and packed(self.path).exists():
            self.path.write_bytes(_content(self.path))
            packed(self.path).unlink()
        with open(self.path, "ab") as self._file:
            _lock(self._file, self.path)
            self._file.truncate(self._good_bytes)
            if not self._good_bytes:
                self._write({"setup": self.setup})
            yield

    def add(self, entry: Entry) -> None:
        """Write a unit that is done."""
        self._write(asdict(entry))
        self.entries[entry.unit] = entry

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _check(self, header: dict[str, Any]) -> None:
        if "setup" not in header:
            raise LtmError(f"{self.path} does not begin as records of ltm bench do; move it away")
        differences = differing(header["setup"], self.setup)
        if differences:
            raise DifferentSetupError(
                f"{self.path} holds records of another run: {'; '.join(differences)}; "
                "give another --out, or --restart to remove them and begin anew"
            )


def differing(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """One line for each value that is not the same, by its dotted name.

    >>> differing({"task": {"documents": 2}}, {"task": {"documents": 4}})
    ['task.documents: 2 there, 4 now']
    """
    lines = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differing(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: {old} there, {new} now")
    return lines


def read_entries(path: Path) -> list[Entry]:
    """The units that a file holds, whatever its setup; none where there is no file."""
    return [Entry(**line) for line in _read_lines(path)[0][1:]]


def packed(path: Path) -> Path:
    """Where a file of records is when it is packed."""
    return path.with_name(path.name + ".gz")


def _content(path: Path) -> bytes:
    """The bytes of a file of records, packed or not; none where there is no file."""
    if path.exists() or not packed(path).exists():
        return path.read_bytes() if path.exists() else b""
    try:
        return gzip.decompress(packed(path).read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise LtmError(f"{packed(path)} is damaged ({error}); --restart removes it and begins anew") from error


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The values of whole lines, and how many bytes these take; nothing where there is no file."""
    whole, _, _ = _content(path).rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise LtmError(f"{path}:{number} is damaged ({error}); --restart removes it and begins anew") from error
    return values, len(whole) + 1 if whole else 0


def _lock(file: IO[bytes], path: Path) -> None:
    """Keep other processes from writing the same file, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LtmError(f"another run is writing {path}; wait for it, or give another --out") from None
