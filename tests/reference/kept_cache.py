"""Caches with a budget written out naively: float64, one row, one token, one head, one slot at a time, on plain lists.

For backbones built like Llama. A rule's reference says what it notes and which slot leaves first; the fast path must
give the same logits, gradients and kept places: tests/methods/cache/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class NaiveSlot:
    """One token of one key head: its number in the text, its key without position, its value, and a figure of the
    rule's."""

    place: int
    key: Tensor
    value: Tensor
    figure: float = 0.0


NaiveHeads = list[list[NaiveSlot]]
"""Of each key head, what it holds."""


def naive_rotate(vector: Tensor, position: int, theta: float) -> Tensor:
    """Rotary embedding of [head_dim]: channel pairs (i, i + half) turn by position * theta^(-2i / head_dim)."""
    half = len(vector) // 2
    angles = position / theta ** (torch.arange(half, dtype=torch.float32) / half)
    first, second = vector[:half], vector[half:]
    return torch.cat((first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()))


class NaiveRule:
    """The forward pass of a cache rule, sharing its weights. `kept` holds every layer's heads afterwards."""

    def __init__(self, method: Any):
        self.config, self.view = method.method_config, method.backbone.view
        self.theta = self.view.config.rope_parameters["rope_theta"]
        self.kept: list[NaiveHeads] = []

    def note(self, heads: NaiveHeads, weights: list[list[Tensor]]) -> None:
        """What a token gave: weights[h] is of one query head, a list over the slots of its key head."""
        raise NotImplementedError

    def first_to_leave(self, slots: list[NaiveSlot], room: int) -> NaiveSlot:
        """Of a head that holds more than `room`."""
        raise NotImplementedError

    def logits(self, ids: Tensor) -> Tensor:
        """Logits [tokens, vocab] of ids [tokens]."""
        self.kept = []
        hidden = self.view.embeddings(ids)
        for layer in self.view.layers:
            hidden = hidden + layer.self_attn.o_proj(self._attention(layer, hidden))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.view.logits(self.view.final_norm(hidden))

    def _attention(self, layer: Any, hidden: Tensor) -> Tensor:
        """[tokens, heads * head_dim]."""
        normed, projections = layer.input_layernorm(hidden), layer.self_attn
        query, keys, values = (
            part(normed).view(len(hidden), -1, self.view.head_dim)
            for part in (projections.q_proj, projections.k_proj, projections.v_proj)
        )
        heads: NaiveHeads = [[] for _ in range(self.view.num_kv_heads)]
        group, outputs = self.view.num_heads // self.view.num_kv_heads, []
        for t in range(len(hidden)):
            for slots, key, value in zip(heads, keys[t], values[t], strict=True):
                slots.append(NaiveSlot(t, key, value))
            attended = [self._attend(query[t, h], heads[h // group]) for h in range(self.view.num_heads)]
            outputs.append(torch.cat([output for output, _ in attended]))
            self.note(heads, [weights for _, weights in attended])
            if (t + 1) % self.config.block == 0:
                for slots in heads:
                    self._evict(slots, t + 1)
        self.kept.append(heads)
        return torch.stack(outputs)

    def _attend(self, query: Tensor, slots: list[NaiveSlot]) -> tuple[Tensor, list[Tensor]]:
        """Output [head_dim] of the latest token's query, and its weight for every slot."""
        positions = [s.place for s in slots] if self.config.positions == "true" else list(range(len(slots)))
        turned = naive_rotate(query, positions[-1], self.theta)
        logits = [
            turned @ naive_rotate(slot.key, position, self.theta) * self.view.head_dim**-0.5
            for slot, position in zip(slots, positions, strict=True)
        ]
        largest = max(float(logit.detach()) for logit in logits)
        shares = [torch.exp(logit - largest) for logit in logits]
        weights = [share / sum(shares) for share in shares]
        return sum(weight * slot.value for weight, slot in zip(weights, slots, strict=True)), weights

    def _evict(self, slots: list[NaiveSlot], seen: int) -> None:
        room = max(self.config.budget, int(self.config.budget_share * seen))
        while len(slots) > room:
            slots.remove(self.first_to_leave(slots, room))
