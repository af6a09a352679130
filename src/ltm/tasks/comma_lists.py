"""Lists in a task's configuration: written with commas, as the command line gives them."""

from __future__ import annotations

from ltm.errors import ConfigError


def words(text: str) -> list[str]:
    """The entries of "sst2, mr"."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    """The entries of "0, 200", each 0 or more; raises ConfigError for what is none.

    >>> numbers("0,200")
    [0, 200]
    """
    entries = words(text)
    wrong = [entry for entry in entries if not entry.isdecimal()]
    if wrong or not entries:
        raise ConfigError(f"{text!r} is no list of whole numbers; write them with commas, as in 0,200")
    return [int(entry) for entry in entries]
