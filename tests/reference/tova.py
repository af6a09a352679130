"""TOVA written out naively (Oren et al., 2024, section 3.3)."""

from __future__ import annotations

from reference.kept_cache import NaiveHeads, NaiveRule, NaiveSlot
from torch import Tensor


class NaiveTova(NaiveRule):
    """A slot's figure is the attention that the latest token gave it, averaged over heads."""

    def note(self, heads: NaiveHeads, weights: list[list[Tensor]]) -> None:
        group = len(weights) // len(heads)
        for index, slots in enumerate(heads):
            counted = weights if self.config.heads == "same" else weights[index * group : (index + 1) * group]
            for number, slot in enumerate(slots):
                slot.figure = sum(float(own[number].detach()) for own in counted) / len(counted)

    def first_to_leave(self, slots: list[NaiveSlot], room: int) -> NaiveSlot:
        return min(slots, key=lambda slot: slot.figure)
