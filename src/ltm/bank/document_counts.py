"""What a row holds of each document, counted as chunks come and go, and what has changed since a save."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

import torch
from torch import Tensor

from ltm.bank.chunks import NO_DOCUMENT

_ticks = count(1)


def tick() -> int:
    """A moment: larger than any before, in all banks of the process."""
    return next(_ticks)


class Changes:
    """Documents by the moment of their last change, so that those since a save are found at once.

    >>> changes = Changes(); changes.note([3, 1]); before = tick(); changes.note([3])
    >>> list(changes.since(before))
    [3]
    """

    def __init__(self) -> None:
        self.moments: dict[int, int] = {}  # the latest at the end

    def note(self, documents: Iterable[int]) -> None:
        for document in documents:
            self.moments.pop(document, None)
            self.moments[document] = tick()

    def since(self, moment: int) -> Iterator[int]:
        """The documents that changed after a moment, the latest first."""
        for document in reversed(self.moments):
            if self.moments[document] <= moment:
                return
            yield document

    def copy(self) -> Changes:
        other = Changes()
        other.moments = dict(self.moments)
        return other


class DocumentCounts:
    """Tokens and chunks held of each document: `counts`; documents and counts of chunks: int32 [chunks]."""

    def __init__(self, documents: Tensor, counts: Tensor):
        self.counts = _tally(documents, counts)

    def add(self, documents: Tensor, counts: Tensor) -> list[int]:
        """Chunks that came; returns whose."""
        return self._change(documents, counts, 1)

    def remove(self, documents: Tensor, counts: Tensor) -> list[int]:
        """Chunks that were evicted or deleted; returns whose."""
        return self._change(documents, counts, -1)

    def _change(self, documents: Tensor, counts: Tensor, sign: int) -> list[int]:
        tally = _tally(documents, counts)
        for document, (tokens, chunks) in tally.items():
            before = self.counts.pop(document, (0, 0))
            if before[1] + sign * chunks:
                self.counts[document] = (before[0] + sign * tokens, before[1] + sign * chunks)
        return list(tally)


def _tally(documents: Tensor, counts: Tensor) -> dict[int, tuple[int, int]]:
    """Tokens and chunks by document; those without one are passed over."""
    if not documents.numel() or int(documents.max()) == NO_DOCUMENT:
        return {}
    ids, owner = documents.unique(return_inverse=True)
    tokens = torch.bincount(owner, weights=counts.cpu().double()).long().tolist()
    chunks = torch.bincount(owner).tolist()
    held = zip(ids.tolist(), tokens, chunks, strict=True)
    return {document: (t, c) for document, t, c in held if document != NO_DOCUMENT}
