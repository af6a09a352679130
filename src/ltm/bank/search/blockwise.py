"""Exact search over all search keys of a row; those that do not lie in memory as floats are decoded a block at a time,
and never more of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ltm.bank.hadamard import hadamard_rotate
from ltm.bank.search.exact import exact_search, joint_search
from ltm.bank.search.keys import SearchKeys

BLOCK_CHUNKS = 2**13
"""Search keys that are decoded at a time: of 3 heads of 64 numbers, 6 MB in float32, which a cache holds."""


def search_all(
    keys: SearchKeys, layer: int, queries: Tensor, top_k: int, jointly: bool = False
) -> tuple[Tensor, Tensor]:
    """As `exact_search`, or with `jointly` as `joint_search`, over all chunks: scores and indices, best first.

    queries: [kv_heads, queries, head_dim] in the keys' dtype; top_k: 1 to all chunks.
    """
    parts = keys.parts(layer)
    if parts is None:
        return _search_blocks(keys, layer, queries, top_k, jointly)
    return joint_search(queries, parts, top_k) if jointly else exact_search(queries, parts, top_k)


def _search_blocks(keys: SearchKeys, layer: int, queries: Tensor, top_k: int, jointly: bool) -> tuple[Tensor, Tensor]:
    """The same, block by block. Quantised keys are not rotated back: queries are rotated instead, and what the keys'
    centre adds to every score of a query is added at the end."""
    asked = (hadamard_rotate(queries) if keys.is_rotated else queries).to(keys.dtype)
    best: tuple[Tensor, Tensor] | None = None
    for first, block in _blocks(keys, layer, 0, keys.num_chunks):
        k = min(top_k, block.shape[1])
        scores, indices = joint_search(asked, [block], k) if jointly else exact_search(asked, block, k)
        best = _merge(best, (scores, indices + first), top_k)
    assert best is not None
    center = keys.center(layer)
    if center is None:
        return best
    added = (queries.float() @ center.to(queries.device)[:, :, None]).to(best[0].dtype)  # [kv_heads, queries, 1]
    return best[0] + (added.sum(dim=0) if jointly else added), best[1]


def as_floats(keys: SearchKeys, layer: int, first: int, count: int) -> Tensor:
    """Search keys of `count` chunks from index `first` on, [kv_heads, count, head_dim], however they are stored: a view
    where they lie in memory in one piece."""
    parts = keys.parts(layer)
    if parts is not None:
        return _cut_out(parts, first, count)
    center, decoded = keys.center(layer), []
    for _, block in _blocks(keys, layer, first, count):
        restored = hadamard_rotate(block) if keys.is_rotated else block
        restored = restored if center is None else restored + center.to(restored.device)[:, None]
        decoded.append(restored.to(keys.dtype))
    return torch.cat(decoded, dim=1)


def _cut_out(parts: Sequence[Tensor], first: int, count: int) -> Tensor:
    """`count` keys from the first-th on, of parts [kv_heads, keys, head_dim] that count as one after another."""
    found, start = [], 0
    for part in parts:
        low, high = max(first - start, 0), min(first + count - start, part.shape[1])
        if high > low:
            found.append(part[:, low:high])
        start += part.shape[1]
    if not found:
        return parts[0][:, :0]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _merge(best: tuple[Tensor, Tensor] | None, found: tuple[Tensor, Tensor], top_k: int) -> tuple[Tensor, Tensor]:
    """The best of both; of equal scores the earlier block's come first."""
    if best is None:
        return found
    scores, indices = (torch.cat(pair, dim=-1) for pair in zip(best, found, strict=True))
    kept = scores.argsort(dim=-1, descending=True, stable=True)[..., :top_k]
    return scores.gather(-1, kept), indices.gather(-1, kept)


def _blocks(keys: SearchKeys, layer: int, first: int, count: int) -> Iterator[tuple[int, Tensor]]:
    """Index of the first chunk, and search keys [kv_heads, chunks, head_dim] in the search dtype, as `decoded`."""
    for start in range(first, first + count, BLOCK_CHUNKS):
        size = min(BLOCK_CHUNKS, first + count - start)
        yield start, keys.decoded(layer, start, size).to(keys.dtype)
