"""Errors meant for a user: one line that says what came, what would do, what to try."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class LtmError(ValueError):
    """Base of every error that a user can mend; the command line prints it without a traceback."""


class ConfigError(LtmError):
    """A configuration that cannot be; all its problems are told together.

    problems: one sentence each.

    >>> raise ConfigError(["chunk_size=0; use 1 or more"])  # doctest: +SKIP
    """

    def __init__(self, problems: Sequence[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))


class UnknownNameError(LtmError, KeyError):
    """A name that is not registered; a KeyError too, as a mapping's lookup raises."""

    __str__ = LtmError.__str__


class BankError(LtmError):
    """A memory bank that cannot be used as asked."""


class BankMismatchError(BankError):
    """The bank was made by another backbone than the one it is opened with."""


class BankCorruptError(BankError):
    """The files of a bank are damaged: truncated, edited or missing."""


def error_line(error: BaseException) -> str:
    """What another library's error says, in one line of at most 300 characters, without a stop at its end.

    >>> error_line(KeyError("zork")), error_line(ValueError("Cannot load:\\n  no such file.\\nSee the docs."))
    ("no 'zork'", 'Cannot load: no such file')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    if isinstance(error, KeyError):
        text = f"no {text}"
    return text.rstrip(".") if len(text) <= 300 else f"{text[:297]}..."


def short_repr(value: Any, most: int = 60) -> str:
    """A value as Python writes it, cut where it is long: a foreign file may hold any."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not registered: the nearest known one, and all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:100], names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return UnknownNameError(f"unknown {kind} {short_repr(name)}{hint} known: {', '.join(names)}")
