"""Whether what was deleted is still found: by name, by a search, in kept responses, in the bytes of a user's files."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ltm.serve.turn_log import LoggedTurn
from ltm.serve.user_memory import UserMemory

LEAST_BYTES, PROBED, SEARCHED = 8, 20, 20
"""Of words that are looked for in files: fewer are there by chance; turns that are looked for; hits of each search."""


@dataclass(frozen=True)
class Probe:
    """What a look for deleted turns gives; of many, the last ones are looked for.

    documents: how many of them the memory still holds; found: how many a search for their own words still gives; kept:
    how many items of kept responses and conversations still hold those words, such as an answer that repeats them;
    files: in how many files of the user those words still lie, None where that cannot be told: they are too short, or
    another item says the same.
    """

    documents: int = 0
    found: int = 0
    kept: int = 0
    files: int | None = None


def probe(memory: UserMemory, turns: Sequence[LoggedTurn]) -> Probe:
    """Look for turns that were deleted; they hold the text that they had."""
    turns = turns[-PROBED:]
    names = {turn.name for turn in turns}
    held = {info.name for info in memory.session.documents}
    found = {
        passage.document
        for turn in turns
        for passage in memory.session.search(turn.text[:1000], SEARCHED)
        if passage.document in names
    }
    words = [one for turn in turns if len((one := _longest_line(turn.text)).encode()) >= LEAST_BYTES]
    told = [one.encode() for one in words if not memory.log.num_holding(one)]
    files = _num_files(memory.directory, told) if told else None
    return Probe(len(names & held), len(found), memory.copies.num_holding(words), files)


def _longest_line(text: str) -> str:
    """Line ends are written otherwise in JSON than in a text."""
    return max((line.strip() for line in text.splitlines()), key=len, default="")


def _num_files(directory: Path, words: Sequence[bytes]) -> int:
    """How many files hold any of some bytes."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.stat().st_size]
    return sum(_holds(path, words) for path in files)


def _holds(path: Path, words: Sequence[bytes]) -> bool:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(one) >= 0 for one in words)
