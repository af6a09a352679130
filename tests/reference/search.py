"""Search over keys written out naively: one query, one head, one key at a time, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def naive_search(queries: Tensor, search_keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The keys with the largest inner products.

    queries: [heads, tokens, head_dim]; search_keys: [kv_heads, chunks, head_dim], query head h uses kv head
    h // (heads / kv_heads). Returns float64 scores and int64 indices [heads, tokens, min(top_k, chunks)], best first.
    """
    heads, tokens, _ = queries.shape
    kv_heads, chunks, _ = search_keys.shape
    found = min(top_k, chunks)
    scores = torch.zeros(heads, tokens, found, dtype=torch.float64)
    indices = torch.zeros(heads, tokens, found, dtype=torch.int64)
    for head in range(heads):
        keys = search_keys[head // (heads // kv_heads)].double()
        for token in range(tokens):
            products = torch.stack([(queries[head, token].double() * key).sum() for key in keys])
            order = products.argsort(descending=True, stable=True)[:found]
            scores[head, token], indices[head, token] = products[order], order
    return scores, indices
