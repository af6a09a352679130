"""What one row of a batch remembers when a segment begins: sinks, events that can be recalled, recent tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ltm.bank import Bank
from ltm.methods.em_llm.config import EmLlmConfig
from ltm.methods.em_llm.selection import most_events


@dataclass(frozen=True)
class Held:
    """A row of a bank, and how many tokens it holds."""

    bank: Bank
    row: int
    tokens: int

    @property
    def version(self) -> tuple[int, int, int, int]:
        """Changes when the row does."""
        own = self.bank.rows[self.row]
        return id(own), own.next_slot, own.num_chunks, self.tokens


class RowPast:
    """Rows of one or two banks as one past, oldest token first; a *place* counts its tokens from 0.

    The last `recent_size` tokens are recent, seen at their true distance; the first `num_sinks` of the others are
    sinks; the events of what lies between can be recalled, cut off where they reach over its ends.
    """

    def __init__(self, held: Sequence[Held], config: EmLlmConfig):
        self.held = [one for one in held if one.tokens]
        self.tokens = sum(one.tokens for one in self.held)
        self.recent = slice(max(self.tokens - config.recent_size, 0), self.tokens)
        self.num_sinks = min(config.num_sinks, self.recent.start)
        self.budget, self.neighbour_budget = config.event_budgets
        self.version = [one.version for one in self.held]
        self._most: dict[int, int] = {}

    @cached_property
    def _cut(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the events between sinks and recent tokens: which, first place and size, int64 [events] each."""
        firsts, ends, start = [], [], 0
        for one in self.held:
            first, sizes = one.bank.event_table(one.row)
            firsts.append(first + start)
            ends.append(first + sizes + start)
            start += one.tokens
        low = torch.cat(firsts).clamp(min=self.num_sinks)
        high = torch.cat(ends).clamp(max=self.recent.start)
        which = (high > low).nonzero().squeeze(1)
        return which, low[which], (high - low)[which]

    @property
    def first(self) -> Tensor:
        """Place of each event's first token, int64 [events]."""
        return self._cut[1]

    @property
    def sizes(self) -> Tensor:
        """Tokens of each event, int64 [events]."""
        return self._cut[2]

    @cached_property
    def fits(self) -> bool:
        """Whether all events together fit the budget, so that nothing has to be looked up."""
        return int(self.sizes.sum()) <= self.budget

    def most(self, budget: int) -> int:
        """The most events that any order of them can put into a budget of tokens."""
        if budget not in self._most:
            self._most[budget] = most_events(self.sizes, budget)
        return self._most[budget]

    def products(self, layer: int, queries: Tensor) -> Tensor:
        """Inner products of queries [queries, heads, head_dim] with each event's keys, [queries, heads, events]."""
        scores = [one.bank.score_events(one.row, queries, layer) for one in self.held]
        together = scores[0] if len(scores) == 1 else torch.cat(scores, dim=2)
        which = self._cut[0]
        if len(which) == together.shape[2]:
            return together
        if len(which) and int(which[-1]) - int(which[0]) + 1 == len(which):
            return together[..., int(which[0]) : int(which[-1]) + 1]
        return together[..., which.to(together.device)]

    def places(self, events: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens of some events (int64 [n]): their places, and which of the n events each belongs to."""
        sizes = self.sizes[events]
        owner = torch.repeat_interleave(torch.arange(len(events)), sizes)
        ends = sizes.cumsum(0)
        within = torch.arange(len(owner)) - (ends - sizes)[owner]
        return self.first[events][owner] + within, owner

    def keys(self, layer: int, places: Tensor | slice) -> Tensor:
        """Position-free keys [kv_heads, n, head_dim] at places, ascending."""
        found = [one.bank.entry_keys(one.row, own, layer) for one, own in self._shares(places)]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def entries(self, layer: int, places: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The same, and values."""
        found = [one.bank.entries(one.row, own, layer) for one, own in self._shares(places)]
        if len(found) == 1:
            return found[0]
        keys, values = zip(*found, strict=True)
        return torch.cat(keys, dim=1), torch.cat(values, dim=1)

    def _shares(self, places: Tensor | slice) -> Iterator[tuple[Held, Tensor | slice]]:
        """What of the places lies in each row, counted from its own first token; rows without any are left out."""
        start = 0
        for one in self.held:
            own = _share(places, start, start + one.tokens)
            if own is not None:
                yield one, own
            start += one.tokens


def _share(places: Tensor | slice, low: int, high: int) -> Tensor | slice | None:
    """The places from low to high, counted from low; None for none."""
    if isinstance(places, slice):
        start, stop = max(places.start, low), min(places.stop, high)
        return slice(start - low, stop - low) if stop > start else None
    own = places[(places >= low) & (places < high)]
    return own - low if len(own) else None
