"""Which chunks are evicted from a full memory: the oldest, those attended least recently or least often, or any other.

Least recently and least frequently attended are the two policies of Attendre (Yang and Hua, 2024, arXiv:2401.04881). Of
the paper only abstract and introduction could be read, so how it counts may differ: here a chunk is attended where a
query retrieves it. What is new is never evicted before what was there, unless more comes at once than fits. A policy is
a function from `ChunkUsage` to a score for each chunk; the lowest are evicted first, of equal ones the oldest. Add one
under a name of its own before the bank is made, and give that name as `BankConfig.evict`:

>>> EVICTIONS["longest_unused_first"] = lambda usage: usage.last - usage.now
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ltm.errors import short_repr


@dataclass(frozen=True)
class ChunkUsage:
    """How the chunks of a row were used, in order of writing, on the host; times count query tokens so far.

    written, last: int64 [chunks], when a chunk was written, and when a query last retrieved it (at first: when it was
    written); times: int64 [chunks], by how many queries (each head and token is one) it was retrieved; now: the time.
    """

    written: Tensor
    last: Tensor
    times: Tensor
    now: int = 0

    @classmethod
    def nothing(cls) -> ChunkUsage:
        none = torch.zeros(0, dtype=torch.int64)
        return cls(none, none, none)

    def wrote(self, chunks: int) -> ChunkUsage:
        """After so many new chunks."""
        fresh = torch.full((chunks,), self.now)
        return ChunkUsage(
            torch.cat((self.written, fresh)),
            torch.cat((self.last, fresh)),
            torch.cat((self.times, fresh.new_zeros(chunks))),
            self.now,
        )

    def found(self, indices: Tensor, tokens: int) -> ChunkUsage:
        """After `tokens` query tokens retrieved the chunks at these indices (int64, any shape, repeats count)."""
        found = torch.bincount(indices.flatten().cpu(), minlength=len(self.times))
        now = self.now + tokens
        return ChunkUsage(self.written, self.last.masked_fill(found > 0, now), self.times + found, now)

    def kept(self, indices: Tensor) -> ChunkUsage:
        """Of the chunks at these indices only."""
        return replace(self, written=self.written[indices], last=self.last[indices], times=self.times[indices])


Eviction = Callable[[ChunkUsage], Tensor]
"""A score for each chunk, [chunks] in any number type; the lowest are evicted first."""


def oldest(usage: ChunkUsage) -> Tensor:
    """First in, first out."""
    return torch.arange(len(usage.written))


def least_recent(usage: ChunkUsage) -> Tensor:
    """What was not retrieved for the longest time, as Attendre's LRA."""
    return usage.last


def least_frequent(usage: ChunkUsage) -> Tensor:
    """What was retrieved least often for the time it has been there, as Attendre's LFA."""
    return usage.times / (usage.now - usage.written + 1)


EVICTIONS: dict[str, Eviction] = {"oldest": oldest, "least_recent": least_recent, "least_frequent": least_frequent}


def eviction_order(eviction: Eviction, usage: ChunkUsage) -> Tensor:
    """The indices of all chunks, those that are evicted first in front."""
    return torch.as_tensor(eviction(usage)).argsort(stable=True)


def eviction_problems(name: str) -> list[str]:
    """What is wrong with the name of a policy; [] if nothing."""
    known = isinstance(name, str) and name in EVICTIONS
    return [] if known else [f"evict={short_repr(name)}; use one of {', '.join(sorted(EVICTIONS))}"]
