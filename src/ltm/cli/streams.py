"""The process's own three streams, made safe for whatever a command prints: open, and failing on no character."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_ERRORS = {"stdin": "surrogateescape", "stdout": "backslashreplace", "stderr": "backslashreplace"}
"""What is done about a character that a stream's encoding does not have: ascii and cp1252 lack most."""


@contextmanager
def safe_streams() -> Iterator[None]:
    """In the block the three streams are open and take every character; afterwards they are as they were."""
    streams = {name: getattr(sys, name) for name in _ERRORS}
    _open_closed()
    before = {name: stream.errors for name in _ERRORS if isinstance(stream := getattr(sys, name), io.TextIOWrapper)}
    _set_errors({name: _ERRORS[name] for name in before})
    try:
        yield
    finally:
        _set_errors(before)
        for name, stream in streams.items():
            setattr(sys, name, stream)


def forget_output() -> None:
    """Send what is left to nowhere: whoever read it went away, and the interpreter flushes once more at its end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
            continue
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _open_closed() -> None:
    """Give a stream that was closed (`>&-`) the null device.

    Else the next file that is opened would take its number, and what a library writes to stderr would go into it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _set_errors(errors: dict[str, Any]) -> None:
    for name, value in errors.items():
        with suppress(ValueError):  # it was closed meanwhile
            getattr(sys, name).reconfigure(errors=value)
