"""What is read, and what is asked about it afterwards."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from ltm.tasks.reading import normalize_answer


@dataclass(frozen=True)
class Asked:
    """A question about a reading.

    answers: right ones, none where nothing that was read answers it; gold: the passages that hold the answer, in the
    order of the text; stale: what was right before the text said otherwise; kind: what tables tell apart.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    gold: tuple[str, ...] = ()
    kind: str = "all"
    stale: str | None = None

    @property
    def answerable(self) -> bool:
        """Whether what was read answers it."""
        return bool(self.answers)


@dataclass(frozen=True)
class AskedReading:
    """documents: (name, text) in the order in which they are read; passages: what they are made of, for the arm that
    shows some at random; asked: the questions."""

    documents: Sequence[tuple[str, str]]
    passages: Sequence[str]
    asked: Sequence[Asked]

    @property
    def text(self) -> str:
        """All documents, a blank line between two."""
        return "\n\n".join(text for _, text in self.documents)


@dataclass(frozen=True)
class ReadingUnit:
    """Readings that are run together. text: the source's name; length: tokens where the source has several, else
    None."""

    key: str
    text: str
    readings: Sequence[AskedReading] = field(repr=False)
    length: int | None = None


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether a text holds one of the answers as whole words, up to case, ASCII punctuation, articles and spaces.

    >>> holds("It was in the Red Barn.", ["the red barn"]), holds("1900s", ["1900"])
    (True, False)
    """
    words = f" {normalize_answer(text)} "
    wanted = [normalize_answer(answer) for answer in answers]
    return any(f" {answer} " in words for answer in wanted if answer)


def drawn(asked: Sequence[Asked], count: int | None, seed: str) -> list[Asked]:
    """So many of the questions, in their order; None: all."""
    if count is None or count >= len(asked):
        return list(asked)
    return [asked[place] for place in sorted(random.Random(seed).sample(range(len(asked)), count))]
