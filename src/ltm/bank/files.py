"""Files that appear whole or not at all: written, synced and only then named in a manifest that is replaced at once."""

from __future__ import annotations

import hashlib
import os
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ltm.bank.manifest import Manifest, TextEntry
from ltm.bank.names import HOLDER, LOCK, MANIFEST, SHARDS, TEXTS, is_bank_file


class Transaction:
    """Files added to a bank's directory, of which none is left if the block fails before the manifest is replaced.

    >>> with Transaction(path) as files:  # doctest: +SKIP
    ...     files.write("shards/0-0-15-1a2b3c4d.safetensors", content)
    ...     files.commit(manifest)
    """

    def __init__(self, path: Path):
        self.path = path
        self.written: list[Path] = []
        self.made: list[Path] = []

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for file in self.written:
            with suppress(OSError):
                file.unlink()
        for directory in reversed(self.made):
            with suppress(OSError):  # it may not be empty
                directory.rmdir()

    def write(self, name: str, content: bytes) -> TextEntry:
        """A new file under the bank's directory, on the disk when this returns."""
        file = self.path / name
        self._make(file.parent)
        self.written.append(file)
        write_synced(file, content)
        return TextEntry(name, len(content), hashlib.sha256(content).hexdigest())

    def commit(self, manifest: Manifest) -> None:
        """Replace the manifest: from here on the bank is what it says, and the files stay."""
        self._make(self.path)
        for name in (SHARDS, TEXTS):
            sync_directory(self.path / name)
        partial = self.path / f".{MANIFEST}.{unique()}"
        self.written.append(partial)
        write_synced(partial, manifest.to_json().encode())
        os.replace(partial, self.path / MANIFEST)
        self.written, self.made = [], []
        sync_directory(self.path)

    def _make(self, directory: Path) -> None:
        missing = [d for d in (directory, *directory.parents) if not d.exists()]
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            self.made.append(one)


def write_synced(file: Path, content: bytes) -> None:
    """Write a file that is not there yet and wait until it is on the disk."""
    with open(file, "xb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, where the system can do that."""
    if os.name == "nt" or not path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unique() -> str:
    """Eight characters that make a file's name its own."""
    return uuid.uuid4().hex[:8]


def is_ours(path: Path) -> bool:
    """Whether a directory holds nothing but what banks leave there."""
    return all(is_bank_file(name) or name in (MANIFEST, LOCK, HOLDER) for name in _names(path))


def remove_orphans(path: Path, manifest: Manifest) -> None:
    """Remove files that banks made here and that the manifest does not name: old ones, and those of killed saves."""
    named = {file.file for file in manifest.files}
    with suppress(OSError):  # in use on some systems; the next save tries again
        for name in _names(path):
            if name not in named and is_bank_file(name):
                (path / name).unlink()


def _names(path: Path) -> list[str]:
    """Files in a directory and in the two that banks have there, as names relative to it."""
    found = []
    for entry in path.iterdir():
        if entry.is_dir() and entry.name in (SHARDS, TEXTS):
            found += [f"{entry.name}/{inner.name}" for inner in entry.iterdir()]
        else:
            found.append(entry.name)
    return found
