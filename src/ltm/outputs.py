"""Files that a user named for a result: new, or in the place of an earlier one of the same kind and of no other."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ltm.errors import LtmError

IsOwn = Callable[[Path], bool]
"""Whether a file that is there is of the kind that is to be written: what would be replaced by it is no loss."""

HEAD_BYTES = 4096


def begins_with(mark: str) -> IsOwn:
    """The kind of files that carry a mark near their beginning."""
    return lambda path: mark.encode() in _head(path)


def check_output(path: str | Path, is_own: IsOwn, kind: str) -> Path:
    """Where a file named by a user is to be written, links followed; LtmError where something else is there.

    kind: what is to be written, for the message. An empty file may be replaced, and a pipe or a device is written to.
    Called before long work as well as by `write_output`, so that nobody waits for what cannot be kept.
    """
    try:
        found = _mode(path)
        target = Path(path) if found is not None and _is_device(found) else Path(path).resolve()
        if found is None:
            if not target.parent.is_dir():
                raise LtmError(f"cannot write {path}: {target.parent} is no folder; make it, or give another place")
        elif stat.S_ISDIR(found):
            raise LtmError(f"cannot write {path}: it is a folder; give a name for {kind}")
        elif stat.S_ISREG(found) and target.stat().st_size and not is_own(target):
            raise LtmError(f"{path} is there and is not {kind}; it was left as it is: give another name, or move it")
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise _cannot(path, error) from error
    return target


def write_output(path: str | Path, content: str | bytes, is_own: IsOwn, kind: str) -> None:
    """Write a file beside its place and rename it, so that it is there whole or not at all."""
    target = check_output(path, is_own, kind)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        if target.exists() and _is_device(target.stat().st_mode):
            _write_to_device(target, data)
            return
        scratch = target.with_name(f".{uuid.uuid4().hex[:12]}.partial")  # its own name may be as long as names can be
        try:
            with open(scratch, "xb") as file:
                file.write(data)
            os.replace(scratch, target)
        finally:
            with suppress(OSError):
                scratch.unlink()
    except OSError as error:
        raise _cannot(path, error) from error


def _mode(path: str | Path) -> int | None:
    """What stands at a path, None for nothing; OSError for links in a circle and names that are too long."""
    try:
        return Path(path).stat().st_mode
    except FileNotFoundError:
        return None


def _is_device(mode: int) -> bool:
    """Whether something is written to as it stands: a pipe, a terminal, the null device."""
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _write_to_device(target: Path, data: bytes) -> None:
    """A pipe that nobody reads is an error, not a wait without an end."""
    handle = os.open(target, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _cannot(path: str | Path, error: Exception) -> LtmError:
    return LtmError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}; give another place")


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)
