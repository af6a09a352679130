"""Searching and fetching for a batch: rows that look at the same memory are searched together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ltm.bank.chunks import ChunkLayout
from ltm.bank.following import following, matched_suffix
from ltm.bank.results import Hits
from ltm.bank.rows import MemoryRow
from ltm.bank.search.select import in_order


class RowReaders(NamedTuple):
    """A memory row and the batch rows that read it."""

    row: MemoryRow
    batch: list[int]


class FoundChunks(NamedTuple):
    """As `Hits`, with indices (0 the oldest chunk of the row) for slots."""

    indices: Tensor
    scores: Tensor
    valid: Tensor


def group_rows(rows: Sequence[MemoryRow], numbers: Sequence[int]) -> list[RowReaders]:
    """Groups for batch rows that read the memory rows `numbers`."""
    groups: dict[int, RowReaders] = {}
    for batch, number in enumerate(numbers):
        row = rows[number]
        groups.setdefault(id(row), RowReaders(row, [])).batch.append(batch)
    return list(groups.values())


def nothing_found(shape: tuple[int, int, int, int], layout: ChunkLayout) -> FoundChunks:
    """What a search fills in: [batch, heads, tokens, top_k] of which nothing is valid yet."""
    return FoundChunks(
        torch.zeros(shape, dtype=torch.int64, device=layout.device),
        torch.full(shape, float("-inf"), dtype=layout.dtype, device=layout.device),
        torch.zeros(shape, dtype=torch.bool, device=layout.device),
    )


def search_groups(
    groups: Sequence[RowReaders], queries: Tensor, top_k: int, layer: int, layout: ChunkLayout
) -> FoundChunks:
    """The best chunks for queries [batch, heads, tokens, head_dim]; see `Bank.search`."""
    batch, heads, tokens, _ = queries.shape
    queries = queries.to(device=layout.device, dtype=layout.dtype)
    indices, scores, valid = nothing_found((batch, heads, tokens, top_k), layout)
    for row, members in groups:
        found = min(top_k, row.num_chunks)
        if not found or not tokens:
            continue
        by_head = queries[members].unflatten(1, (layout.num_kv_heads, -1)).transpose(0, 1)
        # [kv_heads, members, group, tokens, head_dim]: all queries of a kv head in one product
        best = row.search(layer, by_head.flatten(1, 3), found)
        for whole, part in zip((scores, indices), best, strict=True):
            part = part.unflatten(1, by_head.shape[1:4]).transpose(0, 1).flatten(1, 2)
            whole[members, ..., :found] = part  # [members, heads, tokens, found]
        valid[members, ..., :found] = True
    return FoundChunks(indices, scores, valid)


def name_slots(groups: Sequence[RowReaders], found: FoundChunks) -> Hits:
    """Indices to slots, which stay good after later writes."""
    slots = torch.zeros_like(found.indices)
    for row, members in groups:
        if row.num_chunks:
            slots[members] = row.at("numbers", found.indices[members])
    return Hits(slots.masked_fill_(~found.valid, 0), found.scores, found.valid)


def find_slots(groups: Sequence[RowReaders], hits: Hits) -> FoundChunks:
    """Slots to indices; what is not there any more becomes invalid."""
    indices, valid = torch.zeros_like(hits.slots), hits.valid.clone()
    for row, members in groups:
        indices[members], present = row.locate(hits.slots[members])
        valid[members] &= present
    return FoundChunks(indices, hits.scores, valid)


def gather_groups(
    groups: Sequence[RowReaders], found: FoundChunks, layer: int, layout: ChunkLayout
) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens of the chunks found: keys and values [batch, heads, tokens, top_k * chunk_size, head_dim], mask."""
    batch, heads, tokens, top_k = found.indices.shape
    group = heads // layout.num_kv_heads
    by_head = (batch, layout.num_kv_heads, group * tokens * top_k, layout.chunk_size * layout.head_dim)
    keys, values = (torch.empty(by_head, dtype=layout.dtype, device=layout.device) for _ in range(2))
    mask = torch.zeros(batch, heads, tokens, top_k, layout.chunk_size, dtype=torch.bool, device=layout.device)
    columns = torch.arange(layout.chunk_size, device=layout.device)
    for row, members in groups:
        if not row.num_chunks:
            keys[members], values[members] = 0, 0
            continue
        for member in members:
            for head, indices in enumerate(found.indices[member].view(layout.num_kv_heads, -1)):
                row.gather(layer, head, indices, {"keys": keys[member, head], "values": values[member, head]})
        present = columns < row.at("counts", found.indices[members])[..., None]
        mask[members] = present & found.valid[members][..., None]
    shape = (batch, heads, tokens, top_k * layout.chunk_size)
    return keys.view(*shape, layout.head_dim), values.view(*shape, layout.head_dim), mask.view(shape)


def search_jointly(
    groups: Sequence[RowReaders], queries: Tensor, top_k: int, layer: int, layout: ChunkLayout
) -> FoundChunks:
    """The best chunks for queries [batch, kv_heads, tokens, head_dim], all heads together, in order of writing:
    [batch, 1, tokens, top_k]."""
    batch, _, tokens, _ = queries.shape
    queries = queries.to(device=layout.device, dtype=layout.dtype)
    indices, scores, valid = nothing_found((batch, 1, tokens, top_k), layout)
    for row, members in groups:
        found = min(top_k, row.num_chunks)
        if not found or not tokens:
            continue
        together = queries[members].transpose(0, 1).flatten(1, 2)  # [kv_heads, members * tokens, head_dim]
        best, chunks = row.search_joint(layer, together, found)
        # in order of writing: rounding of scores, which depends on where keys lie, must not change any sum's order
        for whole, part in zip((indices, scores), in_order(chunks, best), strict=True):
            whole[members, ..., :found] = part.view(len(members), 1, tokens, found)
        valid[members, ..., :found] = True
    return FoundChunks(indices, scores, valid)


def gather_keys(
    groups: Sequence[RowReaders], found: FoundChunks, layer: int, layout: ChunkLayout, recent: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, next ids and runs of chunks found jointly; see `Neighbours`."""
    batch, _, tokens, top_k = found.indices.shape
    slots = top_k * layout.chunk_size
    by_head = (batch, layout.num_kv_heads, tokens * top_k, layout.chunk_size * layout.head_dim)
    keys = torch.empty(by_head, dtype=layout.dtype, device=layout.device)
    next_ids = torch.full((batch, tokens, slots), -1, dtype=torch.int64, device=layout.device)
    runs = torch.zeros_like(next_ids)
    for row, members in groups:
        if not row.num_chunks:
            keys[members] = 0
            continue
        for member in members:
            indices = found.indices[member, 0]  # [tokens, top_k]
            for head in range(layout.num_kv_heads):
                row.gather(layer, head, indices.flatten(), {"keys": keys[member, head]})
            followed_by = following(row, indices).to(layout.device).where(found.valid[member, 0][..., None], -1)
            next_ids[member] = followed_by.flatten(1)
            if recent is not None:
                runs[member] = matched_suffix(row, indices, recent[member]).flatten(1)
    runs.masked_fill_(next_ids < 0, 0)
    return keys.view(batch, layout.num_kv_heads, tokens, slots, layout.head_dim), next_ids, runs
