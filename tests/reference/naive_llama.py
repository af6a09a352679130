"""A backbone built like Llama, written out naively for the methods' references: one row, one query, one head at a time.

Nothing here calls the attention function, a cache or a decoder layer's forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from reference.attention import naive_attention
from torch import Tensor

from ltm.backbone import BackboneView

Fuse = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From local attention's output [1, heads, tokens, head_dim], its lse [1, heads, tokens] and the position-free query
[heads, tokens, head_dim] to the layer's attention output, like the local one."""


class NaiveLlama:
    """The layers of a Llama-like model in loops, sharing its weights. view: of a model in float64."""

    def __init__(self, view: BackboneView):
        self.view = view
        self.group, self.scaling = view.num_heads // view.num_kv_heads, view.head_dim**-0.5

    def layer(self, layer: Any, hidden: Tensor, fuse: Fuse | None = None) -> Tensor:
        """Attention and feed-forward, each after a norm, each added to what came in: hidden [tokens, hidden_size]."""
        hidden = hidden + layer.self_attn.o_proj(self._attention(layer, hidden, fuse))
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def keys_values(self, layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Keys before rotation, and values, [kv_heads, tokens, head_dim]."""
        normed = layer.input_layernorm(hidden)
        keys, values = layer.self_attn.k_proj(normed), layer.self_attn.v_proj(normed)
        return self.split(keys, self.view.num_kv_heads), self.split(values, self.view.num_kv_heads)

    def _attention(self, layer: Any, hidden: Tensor, fuse: Fuse | None) -> Tensor:
        """[tokens, heads * head_dim]: local causal attention, fused with what else the layer looks at."""
        free_query = self.split(layer.self_attn.q_proj(layer.input_layernorm(hidden)), self.view.num_heads)
        free_keys, values = self.keys_values(layer, hidden)
        query, keys = self.rotate(free_query), self.rotate(free_keys)
        heads, tokens = range(self.view.num_heads), range(len(hidden))
        seen_keys = [[[keys[h // self.group, : t + 1] for t in tokens] for h in heads]]
        seen_values = [[[values[h // self.group, : t + 1] for t in tokens] for h in heads]]
        output, lse = naive_attention(query[None], seen_keys, seen_values, self.scaling)
        if fuse is not None:
            output = fuse(output, lse, free_query)
        return output[0].transpose(0, 1).reshape(len(hidden), -1)

    def split(self, states: Tensor, heads: int) -> Tensor:
        """[tokens, heads * head_dim] -> [heads, tokens, head_dim]."""
        return states.view(len(states), heads, self.view.head_dim).transpose(0, 1)

    def rotate(self, states: Tensor) -> Tensor:
        """Rotary embedding at positions 0, 1, ...: channel pairs (i, i + half) turn by position * theta^(-2i / dim)."""
        dim = states.shape[-1]
        theta = self.view.config.rope_parameters["rope_theta"]
        turned = torch.empty_like(states)
        for position in range(states.shape[1]):
            for i in range(dim // 2):
                angle = torch.tensor(position / theta ** (2 * i / dim), dtype=torch.float32)
                cosine, sine = math.cos(angle), math.sin(angle)
                first, second = states[:, position, i], states[:, position, i + dim // 2]
                turned[:, position, i] = first * cosine - second * sine
                turned[:, position, i + dim // 2] = second * cosine + first * sine
        return turned
