"""The plugins between a layer and a bank: one takes keys and values out, one offers what is retrieved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ltm.attention import Plugin, StopForward, View
from ltm.bank import Hits, LayeredBank
from ltm.methods.trace import Trace


class KeyValueTap(Plugin):
    """Takes the position-free keys and values of one backbone layer; with `stop`, ends the pass right there.

    keys, values: [batch, kv_heads, tokens, head_dim] after the pass.
    """

    def __init__(self, layer: int, stop: bool = False):
        self.observed_layers = (layer,)
        self.stop = stop
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def observe(self, layer: int, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        if self.stop:
            raise StopForward


class MemoryReader(Plugin):
    """Token-to-chunk retrieval as a view of the SideNet's memory layer (Wang et al., 2023, §2.3).

    Each query token of each head gets the `num_chunks` chunks whose mean key has the largest inner product with the
    position-free query, over all parts of the past; all tokens of these chunks are attended. What was found is kept:
    a recomputation (activation checkpointing) must see the same chunks, whatever was written in between.
    """

    def __init__(
        self,
        layer: int,
        past: LayeredBank,
        num_chunks: int,
        gate: Tensor | None,
        trace: Trace | None = None,
    ):
        self.viewed_layers = (layer,)
        self.past, self.num_chunks, self.gate, self.trace = past, num_chunks, gate, trace
        self.found: Hits | None = None
        self._view: View | None = None

    def views(self, layer: int, query: Tensor) -> Sequence[View]:
        if self._view is None:
            # search compares scores in the bank's dtype, whatever autocast would make of them
            with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
                self._view = self._retrieve(query.detach())
        self._view.gate = self.gate
        return (self._view,)

    def used(self, layer: int, view: View, weights: Tensor) -> None:
        if self.trace is None or self.found is None:
            return
        memory_share = 1.0 if view.gate is None else (1 - view.gate.detach().float()).view(1, -1, 1, 1)
        per_head = weights.detach().float() * memory_share  # [batch, heads, tokens, slots]
        num_parts = len(self.past.parts)
        of_chunks = per_head.unflatten(-1, (num_parts * self.num_chunks, -1)).sum(dim=-1)
        shares = of_chunks.tensor_split(num_parts, dim=-1)
        for (part, hits), share in zip(self.past.by_part(self.found), shares, strict=True):
            self.trace.note(part.bank, part.rows, hits.slots, share)

    def _retrieve(self, query: Tensor) -> View:
        """The best chunks over all parts, as one view of [batch, heads, tokens, slots, head_dim]."""
        self.found = self.past.search(query, self.num_chunks)
        return View(*self.past.gather(self.found))
