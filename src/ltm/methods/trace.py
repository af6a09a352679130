"""Which remembered chunks each token used: collected while a method runs, resolved to passages afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ltm.bank import Bank


@dataclass(frozen=True)
class UsedChunk:
    """A chunk of a bank (memory row and slot) and how much it was used, all chunks together 0 to 1: the probability
    that a pointer gave to copying from it and, of what is left, the mean over heads of its softmax weight times the
    gate's memory share."""

    row: int
    slot: int
    weight: float


@dataclass
class _Step:
    """One attention call: slots and weights [batch, heads, tokens, chunks]."""

    bank: Bank
    rows: Tensor
    slots: Tensor
    weights: Tensor


@dataclass
class Trace:
    """What `Reader.trace` yields. Batch rows stay apart; tokens come in the order they were scored.

    >>> with method.trace() as trace: method.generate(prompt)  # doctest: +SKIP
    >>> trace.tokens(0)[-1][:3]  # doctest: +SKIP
    """

    steps: list[_Step] = field(default_factory=list)

    def note(self, bank: Bank, rows: Tensor, slots: Tensor, weights: Tensor) -> None:
        """Add one attention call over one bank."""
        self.steps.append(_Step(bank, rows.cpu(), slots.cpu(), weights.cpu()))

    def join(self, bank: Bank, rows: Tensor, slots: Tensor, weights: Tensor, left: Tensor) -> None:
        """Add to the last call noted over this bank what its last tokens copied, [batch, 1, tokens, chunks]; of what
        is left of their probability, [batch, 1, tokens, 1], attention has the weights that were noted."""
        step = next((step for step in reversed(self.steps) if step.bank is bank), None)
        if step is None:
            self.note(bank, rows, slots, weights)
            return
        batch, heads, tokens, _ = step.slots.shape
        shape = (batch, heads, tokens, slots.shape[-1])
        own_slots, own_weights = step.slots.new_zeros(shape), step.weights.new_zeros(shape)
        own_slots[:, :, -slots.shape[2] :], own_weights[:, :, -slots.shape[2] :] = slots.cpu(), weights.cpu()
        own_left = step.weights.new_ones((batch, 1, tokens, 1))
        own_left[:, :, -slots.shape[2] :] = left.cpu()
        step.slots = torch.cat((step.slots, own_slots), dim=-1)
        step.weights = torch.cat((step.weights * own_left, own_weights), dim=-1)

    def scale(self, factors: Tensor, since: int) -> None:
        """Of the calls noted after the first `since`, scale the last tokens' weights: factors [batch, tokens]."""
        for step in self.steps[since:]:
            last = step.weights[:, :, -factors.shape[1] :] * factors[:, None, :, None].to(step.weights)
            step.weights = torch.cat((step.weights[:, :, : -factors.shape[1]], last), dim=2)

    def keep_last(self, tokens: int, since: int) -> None:
        """Of the calls noted after the first `since`, keep the last so many tokens: the rest was context, run again."""
        for step in self.steps[since:]:
            step.slots, step.weights = step.slots[:, :, -tokens:], step.weights[:, :, -tokens:]

    def tokens(self, batch_row: int, bank: Bank | None = None) -> list[list[UsedChunk]]:
        """For each token scored in a batch row, the chunks of `bank` (None: the first) it used, most used first."""
        steps = self.steps_of(bank)
        return [self._used(step, batch_row, token) for step in steps for token in range(step.slots.shape[2])]

    def total(self, batch_row: int, last: int | None = None, bank: Bank | None = None) -> list[UsedChunk]:
        """Chunks used by all tokens together (or the `last` so many), most used first; weights are summed."""
        sums: dict[tuple[int, int], float] = {}
        tokens = self.tokens(batch_row, bank)
        for used in tokens if last is None else tokens[-last:]:
            for chunk in used:
                key = (chunk.row, chunk.slot)
                sums[key] = sums.get(key, 0.0) + chunk.weight
        return _sorted(sums)

    def steps_of(self, bank: Bank | None) -> Sequence[_Step]:
        if bank is None and self.steps:
            bank = self.steps[0].bank
        return [step for step in self.steps if step.bank is bank]

    @staticmethod
    def _used(step: _Step, batch_row: int, token: int) -> list[UsedChunk]:
        slots, weights = step.slots[batch_row, :, token], step.weights[batch_row, :, token]  # [heads, chunks]
        row = int(step.rows[batch_row])
        sums: dict[tuple[int, int], float] = {}
        for slot, weight in zip(slots.flatten().tolist(), weights.flatten().tolist(), strict=True):
            if weight > 0:
                sums[(row, slot)] = sums.get((row, slot), 0.0) + weight / len(slots)
        return _sorted(sums)


def _sorted(sums: dict[tuple[int, int], float]) -> list[UsedChunk]:
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return [UsedChunk(row, slot, weight) for (row, slot), weight in ordered]
