"""What one row of a batch remembers when a segment begins: sinks, events that can be recalled, recent tokens."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ltm.bank import LayeredBank
from ltm.methods.attention.em_llm.config import EmLlmConfig
from ltm.methods.attention.em_llm.selection import most_events


class EventPast:
    """One row of a past, oldest token first; a *place* counts its tokens from 0.

    The last `recent_size` tokens are recent, seen at their true distance; the first `num_sinks` of the others are
    sinks; the events of what lies between can be recalled, cut off where they reach over its ends.
    """

    def __init__(self, past: LayeredBank, row: int, config: EmLlmConfig):
        self.past, self.row = past, row
        self.tokens = past.num_tokens(row)
        self.recent = slice(max(self.tokens - config.recent_size, 0), self.tokens)
        self.num_sinks = min(config.num_sinks, self.recent.start)
        self.budget, self.neighbour_budget = config.event_budgets
        self._most: dict[int, int] = {}

    @cached_property
    def _cut(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the events between sinks and recent tokens: which, first place and size, int64 [events] each."""
        first, sizes = self.past.event_table(self.row)
        low = first.clamp(min=self.num_sinks)
        high = (first + sizes).clamp(max=self.recent.start)
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
        together = self.past.score_events(self.row, queries, layer)
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
        return self.past.entry_keys(self.row, places, layer)

    def entries(self, layer: int, places: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The same, and values."""
        return self.past.entries(self.row, places, layer)
