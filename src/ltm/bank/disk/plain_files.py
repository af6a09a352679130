"""The only way to the files in a bank's directory: plain files, below real directories, never through a link.

A bank may come from anywhere. A link in it would let it read or overwrite any file of whoever opens it, a pipe or an
endless device would let it hang. The path of the bank itself is its user's, and may be a link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

_FLAGS = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer does not wait
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class NotPlainError(OSError):
    """Something in a bank's directory that is no plain file, or no real directory, where one should be."""

    def __init__(self, file: str, kind: str, wanted: str = "plain file"):
        super().__init__(errno.EINVAL, f"it is {kind}, not a {wanted}", file)


def plain_stat(root: Path, name: str) -> os.stat_result:
    """What a file is, by its name relative to the bank, with slashes.

    Raises FileNotFoundError where it is not there, NotPlainError where it is something else than a plain file.
    """
    check_folders(root, name)
    file = os.path.join(root, name)
    return _checked(file, os.lstat(file))


def open_plain(root: Path, name: str, mode: str = "rb") -> BinaryIO:
    """A plain file: "rb" to read, "r+b" to change, "xb" to make it where nothing is. Raises as `plain_stat`."""
    file = os.path.join(root, name)
    flags = {"rb": os.O_RDONLY, "r+b": os.O_RDWR, "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL}[mode]
    if mode == "xb":
        check_folders(root, name)
    else:
        plain_stat(root, name)
    handle = os.open(file, flags | _FLAGS, 0o666)
    try:
        _checked(file, os.fstat(handle))  # what was opened, should it have been swapped since
        return cast(BinaryIO, os.fdopen(handle, "wb" if mode == "xb" else mode))
    except BaseException:
        os.close(handle)
        raise


def read_plain(root: Path, name: str, num_bytes: int | None = None) -> bytes:
    """The content of a plain file, at most its first `num_bytes`."""
    with open_plain(root, name) as file:
        size = os.fstat(file.fileno()).st_size + 1  # room is made for no more than there is
        return file.read(size if num_bytes is None else min(num_bytes, size))


def check_folders(root: Path, name: str) -> None:
    """Raise NotPlainError where a directory between the bank and one of its files is a link or a file."""
    inner = str(root)
    for part in name.split("/")[:-1]:
        inner = os.path.join(inner, part)
        mode = os.lstat(inner).st_mode if os.path.lexists(inner) else stat.S_IFDIR
        if not stat.S_ISDIR(mode):
            raise NotPlainError(inner, _kind(mode), "directory")


def remove_plain(root: Path, name: str) -> None:
    """Remove a name from a bank's directory: of a link the link itself, never what it leads to."""
    check_folders(root, name)
    os.unlink(root / name)


def all_files(root: Path) -> Iterator[tuple[str, str | None]]:
    """Everything below a directory but directories, sorted: names relative to it, and None for a plain file, else what
    it is. Links are not followed."""
    for folder, folders, files in os.walk(root, followlinks=False):
        folders.sort()
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*files, *linked]):
            file = Path(folder, name)
            mode = os.lstat(file).st_mode
            yield file.relative_to(root).as_posix(), None if stat.S_ISREG(mode) else _kind(mode)


def _checked(file: str, found: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(found.st_mode):
        raise NotPlainError(file, _kind(found.st_mode))
    return found


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a plain file" if stat.S_ISREG(mode) else "a special file")
