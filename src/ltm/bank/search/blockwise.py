"""Search keys that do not lie in memory as floats: decoded a block at a time, from codes, from files or from keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm.bank.search.exact import exact_search, joint_search
from ltm.bank.storage import SCALE, rotate

if TYPE_CHECKING:
    from ltm.bank.rows import Row

BLOCK_CHUNKS = 2**13
"""Search keys that are decoded at a time: of 3 heads of 64 numbers, 6 MB in float32, which a cache holds."""


def search_row(row: Row, layer: int, queries: Tensor, top_k: int, jointly: bool = False) -> tuple[Tensor, Tensor]:
    """As `exact_search`, or with `jointly` as `joint_search`, over all chunks of a row, however search keys are stored.

    queries: [kv_heads, queries, head_dim] in the row's search dtype; top_k: 1 to the row's chunks.
    """
    if not row.has_float_search_keys:
        return search_blocks(row, layer, queries, top_k, jointly)
    parts = [part[layer] for part in row.ring.parts("search_keys")]
    return joint_search(queries, parts, top_k) if jointly else exact_search(queries, parts, top_k)


def search_blocks(row: Row, layer: int, queries: Tensor, top_k: int, jointly: bool = False) -> tuple[Tensor, Tensor]:
    """As `exact_search`, or with `jointly` as `joint_search`, over all chunks of a row: scores and places in order.

    queries: [kv_heads, queries, head_dim]; top_k: 1 to the row's chunks. Codes are not rotated back: queries are
    rotated instead, and what the keys' centre adds to every score of a query is added at the end.
    """
    in_codes = _in_codes(row)
    asked = (rotate(queries) if in_codes else queries).to(row.search_dtype)
    best: tuple[Tensor, Tensor] | None = None
    for first, keys in _blocks(row, layer, 0, row.num_chunks):
        k = min(top_k, keys.shape[1])
        scores, places = joint_search(asked, [keys], k) if jointly else exact_search(asked, keys, k)
        best = _merge(best, (scores, places + first), top_k)
    assert best is not None
    center = row.layout.key_center if in_codes else None
    if center is None:
        return best
    added = (queries.float() @ center[layer].to(queries.device)[:, :, None]).to(best[0].dtype)  # [kv_heads, queries, 1]
    return best[0] + (added.sum(dim=0) if jointly else added), best[1]


def search_keys_of(row: Row, layer: int, first: int, count: int) -> Tensor:
    """Search keys of `count` chunks from the first-th oldest on as floats, [kv_heads, count, head_dim], however they
    are stored: a view where that can be."""
    if row.has_float_search_keys:
        return row.ring.ordered("search_keys", first, count)[layer]
    parts = []
    for _, keys in _blocks(row, layer, first, count):
        if _in_codes(row):
            center = row.layout.key_center
            keys = rotate(keys) if center is None else rotate(keys) + center[layer].to(keys.device)[:, None]
        parts.append(keys.to(row.search_dtype))
    return torch.cat(parts, dim=1)


def _merge(best: tuple[Tensor, Tensor] | None, found: tuple[Tensor, Tensor], top_k: int) -> tuple[Tensor, Tensor]:
    """The best of both; of equal scores the earlier block's come first."""
    if best is None:
        return found
    scores, places = (torch.cat(pair, dim=-1) for pair in zip(best, found, strict=True))
    kept = scores.argsort(dim=-1, descending=True, stable=True)[..., :top_k]
    return scores.gather(-1, kept), places.gather(-1, kept)


def _in_codes(row: Row) -> bool:
    """Whether decoded search keys are centred and rotated."""
    codecs = row.layout.codecs
    return codecs.get("search_keys", codecs["keys"]).bits is not None


def _blocks(row: Row, layer: int, first: int, count: int) -> Iterator[tuple[int, Tensor]]:
    """Place of the first chunk, and search keys [kv_heads, chunks, head_dim] in the search dtype; codes are decoded,
    not rotated back."""
    for start in range(first, first + count, BLOCK_CHUNKS):
        size = min(BLOCK_CHUNKS, first + count - start)
        yield start, _decoded(row, layer, start, size).to(row.search_dtype)


def _decoded(row: Row, layer: int, first: int, count: int) -> Tensor:
    codec = row.layout.codecs.get("search_keys")
    if codec is None:
        return _derived(row, layer, first, count)
    stored = row.field("search_keys", first, count)[layer]
    return stored if codec.bits is None else codec.decode(stored, row.field("search_keys" + SCALE, first, count)[layer])


def _derived(row: Row, layer: int, first: int, count: int) -> Tensor:
    """Means of the chunks' stored keys."""
    codec, size = row.layout.codecs["keys"], row.layout.chunk_size
    counts = row.field("counts", first, count)
    short = bool((counts < size).any())
    present = torch.arange(size, device=counts.device) < counts[:, None] if short else None  # [chunks, chunk_size]
    keys = row.field("keys", first, count)[layer]  # [kv_heads, chunks, chunk_size, ...]
    if codec.bits is not None:
        return codec.summed(keys, row.field("keys" + SCALE, first, count)[layer], present, counts)
    means = keys.sum(dim=2, dtype=torch.promote_types(keys.dtype, torch.float32)) / counts[:, None]
    return means.to(row.layout.dtype)  # what is missing of a short chunk is zero
