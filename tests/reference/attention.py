"""Naive references: attention in plain loops and float64, easy to check by eye; tests hold the fast path to them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def naive_attention(
    query: Tensor,
    keys: list[list[list[Tensor]]],
    values: list[list[list[Tensor]]],
    scaling: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention where every query has its own list of keys and values.

    query: [batch, heads, tokens, head_dim]; keys[b][h][t]: [slots, head_dim] for that query (slots may be 0).
    Returns the output like `query`, and lse [batch, heads, tokens] (-inf where there are no slots), in float64.
    """
    batch, heads, tokens, head_dim = query.shape
    output = torch.zeros(batch, heads, tokens, head_dim, dtype=torch.float64)
    lse = torch.full((batch, heads, tokens), -math.inf, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for t in range(tokens):
                own_keys, own_values = keys[b][h][t].double(), values[b][h][t].double()
                if len(own_keys) == 0:
                    continue
                logits = torch.stack([torch.dot(query[b, h, t].double(), key) * scaling for key in own_keys])
                if softcap is not None:
                    logits = softcap * torch.tanh(logits / softcap)
                total = torch.logsumexp(logits, dim=0)
                weights = torch.exp(logits - total)
                output[b, h, t] = sum(w * v for w, v in zip(weights, own_values, strict=True))
                lse[b, h, t] = total
    return output, lse


def naive_token_to_chunk(query: Tensor, keys: Tensor, chunk_size: int, num_chunks: int) -> list[int]:
    """The chunks of one query by inner product with each chunk's mean key, best first (Wang et al., 2023, §2.3).

    query: [head_dim]; keys: [tokens, head_dim], consecutive; the last chunk may be short.
    """
    scores = []
    for start in range(0, len(keys), chunk_size):
        chunk = keys[start : start + chunk_size].double()
        scores.append((float(torch.dot(query.double(), chunk.mean(dim=0))), start // chunk_size))
    scores.sort(key=lambda pair: (-pair[0], pair[1]))
    return [index for _, index in scores[:num_chunks]]
