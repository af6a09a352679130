"""What comes through a pipe: standard input (`-`), process substitution, FIFOs. Read once, whole, and within bounds."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

from ltm.console import notice
from ltm.errors import LtmError

STDIN = "-"
MOST_BYTES = 1 << 30
"""More than this is no text that somebody piped in, but a pipe without an end."""
WAIT_SECONDS = 10.0
"""How long a FIFO may have nobody who writes to it."""
_PIECE = 1 << 20
_OPEN_FILES = (Path("/dev/fd"), Path("/proc/self/fd"))


def is_stream(path: Path) -> bool:
    """Whether a path is read once, as it comes: `-`, what a shell hands over as a file, or a FIFO."""
    if str(path) in (STDIN, "/dev/stdin") or path.parent in _OPEN_FILES:
        return True
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def stream_name(path: Path) -> str:
    """What a text that came this way is called in messages."""
    return "standard input" if str(path) in (STDIN, "/dev/stdin") else str(path)


def read_stream(path: Path) -> bytes:
    """Everything that comes. Raises LtmError for what is no text, has no end, or comes from nobody."""
    try:
        if str(path) in (STDIN, "/dev/stdin"):
            return _read_stdin()
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb", buffering=0) as file:
            first = _await_writer(file, path)
            os.set_blocking(handle, True)
            return first + _read_all(file, stream_name(path), len(first))
    except OSError as error:
        raise LtmError(f"{stream_name(path)} cannot be read ({error.strerror or error})") from error


def _read_stdin() -> bytes:
    if sys.stdin.isatty():
        notice("reading from the terminal; Ctrl-D on a line of its own ends the text", style="dim")
    buffer = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read().encode() if buffer is None else _read_all(buffer, stream_name(Path(STDIN)), 0)


def _await_writer(file: Any, path: Path) -> bytes:
    """The first bytes of a pipe; none where its writer has none yet. LtmError where there is no writer."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        first = file.read(_PIECE)
        if first is None:  # somebody writes, but nothing has come yet
            return b""
        if first or not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode) or path.parent in _OPEN_FILES:
            return first
        if time.monotonic() >= until:
            raise LtmError(f"{path} is a pipe that nobody writes to; start what writes first, or give a file")
        time.sleep(0.02)


def _read_all(file: Any, name: str, size: int) -> bytes:
    pieces = []
    while piece := file.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if b"\0" in piece:
            raise LtmError(f"{name} holds NUL bytes, so it is not plain text; give it UTF-8 text")
        if size > MOST_BYTES:
            raise LtmError(f"{name} gave more than {MOST_BYTES:,} bytes; write them to a file and give that")
    return b"".join(pieces)
