"""The plugins between a layer and a bank: one takes keys and values out, one offers what is retrieved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltm.attention import Plugin, StopForward, View
from ltm.bank import Bank, Hits
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


@dataclass
class Source:
    """A bank and the row of it that each batch row reads, int64 [batch]."""

    bank: Bank
    rows: Tensor


def best_over_sources(hits: Sequence[Hits]) -> list[Hits]:
    """What each source found, of which only the best over all sources stays valid: as many chunks as each was asked."""
    if len(hits) == 1:
        return list(hits)
    num_chunks = hits[0].scores.shape[-1]
    scores = torch.cat([found.scores for found in hits], dim=-1)  # [batch, heads, tokens, sources * chunks]
    best = torch.zeros_like(scores, dtype=torch.bool)
    best.scatter_(-1, scores.topk(num_chunks, dim=-1).indices, True)
    among_best = best.split(num_chunks, dim=-1)
    return [found._replace(valid=found.valid & kept) for found, kept in zip(hits, among_best, strict=True)]


class MemoryReader(Plugin):
    """Token-to-chunk retrieval as a view of the SideNet's memory layer (Wang et al., 2023, §2.3).

    Each query token of each head gets the `num_chunks` chunks whose mean key has the largest inner product with the
    position-free query, from all sources together; all tokens of these chunks are attended. What was found is kept:
    a recomputation (activation checkpointing) must see the same chunks, whatever was written in between.
    """

    def __init__(
        self,
        layer: int,
        sources: Sequence[Source],
        num_chunks: int,
        gate: Tensor | None,
        trace: Trace | None = None,
    ):
        self.viewed_layers = (layer,)
        self.sources, self.num_chunks, self.gate, self.trace = sources, num_chunks, gate, trace
        self.found: list[tuple[Source, Tensor]] | None = None
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
        share = 1.0 if view.gate is None else (1 - view.gate.detach().float()).view(1, -1, 1, 1)
        per_head = weights.detach().float() * share  # [batch, heads, tokens, slots]
        slots = per_head.unflatten(-1, (len(self.found), self.num_chunks, -1)).sum(dim=-1)
        for index, (source, chunks) in enumerate(self.found):
            self.trace.note(source.bank, source.rows, chunks, slots[..., index, :])

    def _retrieve(self, query: Tensor) -> View:
        """The best chunks over all sources, as one view of [batch, heads, tokens, slots, head_dim]."""
        found = [source.bank.search(query, self.num_chunks, rows=source.rows) for source in self.sources]
        hits = best_over_sources(found)
        self.found = [(source, best.slots) for source, best in zip(self.sources, hits, strict=True)]
        parts = [source.bank.gather(best, rows=source.rows) for source, best in zip(self.sources, hits, strict=True)]
        keys, values, masks = (
            torch.cat(tensors, dim=3) if len(parts) > 1 else tensors[0] for tensors in zip(*parts, strict=True)
        )
        return View(keys, values, masks)
