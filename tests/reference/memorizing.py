"""The Memorizing Transformer written out naively: float64, one segment, one query, one head at a time.

For backbones built like Llama. The fast path must give the same logits and the same gradient of the gate
(tests/methods/test_memorizing.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from reference.attention import naive_attention, naive_token_to_chunk
from reference.naive_llama import NaiveLlama
from torch import Tensor

Memory = tuple[Tensor, Tensor]
"""A row's position-free keys and values, oldest first, [kv_heads, tokens, head_dim]."""


class NaiveMemorizing:
    """The forward pass of a `Memorizing` in float64, sharing its weights; `memories` holds what each row read."""

    def __init__(self, method: Any):
        self.method, self.config = method, method.method_config
        self.view = method.backbone.view
        self.llama = NaiveLlama(self.view)
        self.memories: list[Memory | None] = []

    def score_and_read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Training's pass: each segment of columns is scored and then remembered; logits [batch, tokens, vocab].

        mask: bool [batch, tokens]; padding's logits are zero.
        """
        self.memories = self.memories or [None] * len(ids)
        logits = torch.zeros(*ids.shape, self.view.vocab_size, dtype=torch.float64)
        for row in range(len(ids)):
            for columns in torch.arange(ids.shape[1]).split(self.config.segment_size):
                valid = columns[mask[row, columns]]
                if len(valid):
                    logits[row, valid] = self._segment(ids[row, valid], row)
        return logits

    def _segment(self, ids: Tensor, row: int) -> Tensor:
        """Logits [tokens, vocab] of one segment of one row, which is remembered afterwards."""
        hidden, memory = self.view.embeddings(ids), self.memories[row]  # [tokens, hidden_size]
        for index, layer in enumerate(self.view.layers):
            remembers = index == self.method.memory_layer
            if remembers:
                self._remember(row, *self.llama.keys_values(layer, hidden))
            fuse = partial(self._fuse, memory=memory) if remembers and memory is not None else None
            hidden = self.llama.layer(layer, hidden, fuse)
        assert self.view.final_norm is not None
        return self.view.logits(self.view.final_norm(hidden))

    def _remember(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Append a segment, [kv_heads, tokens, head_dim]; the oldest tokens leave."""
        before = self.memories[row]
        if before is not None:
            keys, values = torch.cat((before[0], keys), dim=1), torch.cat((before[1], values), dim=1)
        self.memories[row] = (keys[:, -self.config.memory_size :], values[:, -self.config.memory_size :])

    def _fuse(self, local: Tensor, lse: Tensor, query: Tensor, memory: Memory) -> Tensor:
        """Section 3.1 of the paper: (1 - g) * local + g * remembered, g = sigmoid(b) of each head."""
        keys: list[list[list[Tensor]]] = [[]]
        values: list[list[list[Tensor]]] = [[]]
        for h, head in enumerate(query):
            own_keys, own_values = memory[0][h // self.llama.group], memory[1][h // self.llama.group]
            nearest = [naive_token_to_chunk(q.detach(), own_keys, 1, self.config.top_k) for q in head]
            keys[0].append([own_keys[tokens] for tokens in nearest])
            values[0].append([own_values[tokens] for tokens in nearest])
        remembered, _ = naive_attention(query[None], keys, values, self.llama.scaling)
        share = torch.sigmoid(self.method.gate.bias).view(1, -1, 1, 1)
        return (1 - share) * local + share * remembered
