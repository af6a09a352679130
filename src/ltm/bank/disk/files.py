"""Files that appear whole or not at all: written, synced and only then named in a manifest that is replaced at once."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ltm.bank.disk.file_names import HOLDER, LOCK, MANIFEST, PASSAGES, SHARDS, TEXTS, is_bank_file
from ltm.bank.disk.journal import BankJournal
from ltm.bank.disk.manifest_entries import FileEntry
from ltm.bank.disk.plain_files import check_folders, open_plain, remove_plain


class Transaction:
    """Files added to a bank's directory, of which none is left if the block fails before the manifest is replaced.

    >>> with Transaction(path) as files:  # doctest: +SKIP
    ...     files.write("shards/0-0-15-1a2b3c4d.safetensors", content)
    ...     files.commit(manifest.to_json())
    """

    def __init__(self, path: Path):
        self.path = path
        self.written: list[str] = []
        self.made: list[Path] = []
        self.grown: BankJournal | None = None

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name in self.written:
            with suppress(OSError):
                remove_plain(self.path, name)
        if self.grown is not None:
            with suppress(OSError), open_plain(self.path, self.grown.file, "r+b") as file:
                file.truncate(self.grown.num_bytes)
        for directory in reversed(self.made):
            with suppress(OSError):  # it may not be empty
                directory.rmdir()

    def write(self, name: str, content: bytes) -> FileEntry:
        """A new file under the bank's directory, on the disk when this returns."""
        self._make((self.path / name).parent)
        self.written.append(name)
        write_synced(self.path, name, content)
        return FileEntry(name, len(content), hashlib.sha256(content).hexdigest())

    def append(self, journal: BankJournal, line: bytes) -> None:
        """A line behind what a journal has; what a killed save left there goes."""
        self.grown = journal
        append_synced(self.path, journal.file, journal.num_bytes, line)

    def commit(self, manifest: str) -> None:
        """Replace the manifest: from here on the bank is what it says, and the files stay."""
        self._make(self.path)
        for folder in sorted({name.rpartition("/")[0] for name in self.written if "/" in name}):
            sync_directory(self.path / folder)
        partial = f".{MANIFEST}.{unique()}"
        self.written.append(partial)
        write_synced(self.path, partial, manifest.encode())
        os.replace(self.path / partial, self.path / MANIFEST)
        self.written, self.made, self.grown = [], [], None
        sync_directory(self.path)

    def _make(self, directory: Path) -> None:
        missing = [d for d in (directory, *directory.parents) if not os.path.lexists(d)]
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            self.made.append(one)


def write_synced(root: Path, name: str, content: bytes) -> None:
    """Write a file that is not there yet and wait until it is on the disk."""
    with open_plain(root, name, "xb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def append_synced(root: Path, name: str, num_bytes: int, content: bytes) -> None:
    """Write behind the first `num_bytes` of a file, and wait until it is on the disk."""
    with open_plain(root, name, "r+b") as out:
        out.truncate(num_bytes)
        out.seek(num_bytes)
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
    return all(is_bank_file(name) or name in (MANIFEST, PASSAGES, LOCK, HOLDER) for name in _names(path))


def remove_derived(path: Path) -> None:
    """Remove what was made of the texts of a bank and can be made again."""
    derived = path / PASSAGES
    if derived.is_symlink():
        derived.unlink()
    elif derived.is_dir():
        shutil.rmtree(derived)


def remove_files(path: Path, names: Iterable[str]) -> None:
    """Remove files of a bank; one that is in use on some systems stays until leftovers are looked for."""
    for name in names:
        with suppress(OSError):
            remove_plain(path, name)


def remove_orphans(path: Path, named: Collection[str], folders: Collection[str] = (SHARDS, TEXTS)) -> None:
    """Remove files that banks made here and that are not among those named: of killed saves.

    folders: those of the bank's that are looked into, beside its own directory."""
    with suppress(OSError):
        remove_files(path, [name for name in _names(path, folders) if name not in named and is_bank_file(name)])


def folder_stamps(path: Path) -> dict[str, int]:
    """When a name in each of the folders of a bank was last added or removed."""
    stamps = {}
    for folder in (SHARDS, TEXTS):
        with suppress(FileNotFoundError):
            stamps[folder] = os.lstat(path / folder).st_mtime_ns
    return stamps


def _names(path: Path, folders: Collection[str] = (SHARDS, TEXTS)) -> list[str]:
    """What is in a directory and in these of its folders, as names relative to it; links are not followed."""
    found = []
    for entry in path.iterdir():
        if entry.name in folders and entry.is_dir():
            check_folders(path, f"{entry.name}/any")
            found += [f"{entry.name}/{inner.name}" for inner in entry.iterdir()]
        else:
            found.append(entry.name)
    return found
