"""H2O written out naively (Zhang et al., 2023, algorithm 1)."""

from __future__ import annotations

from reference.kept_cache import NaiveHeads, NaiveRule, NaiveSlot
from torch import Tensor


class NaiveH2o(NaiveRule):
    """A slot's figure is all the attention it got since it came, from every head that shares it."""

    def note(self, heads: NaiveHeads, weights: list[list[Tensor]]) -> None:
        group = len(weights) // len(heads)
        for head, own in enumerate(weights):
            for slot, weight in zip(heads[head // group], own, strict=True):
                slot.figure += float(weight.detach())

    def first_to_leave(self, slots: list[NaiveSlot], room: int) -> NaiveSlot:
        old = slots[: len(slots) - int(room * self.config.recent)]
        return min(old, key=lambda slot: slot.figure)
