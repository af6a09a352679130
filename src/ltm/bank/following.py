"""What followed the tokens of remembered chunks, and how far those before them are the present ones: the questions of
n-grams that LongMem's pointer asks. They look at slots, documents and token ids alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ltm.bank.stored_chunks import StoredChunks

FEW = 2048
"""Tokens up to which it costs less to compare all before each at once than one after the other."""


def following(stored: StoredChunks, indices: Tensor) -> Tensor:
    """The token that came after each token of the chunks at these indices (any shape), int64 [..., chunk_size]; -1: not
    known. A chunk goes on in the next one if that was written right after it, to the same document."""
    indices = indices.cpu()
    if indices.numel() > stored.num_chunks:  # most are asked for many times
        every = following(stored, torch.arange(stored.num_chunks))
        return every.index_select(0, indices.flatten()).view(*indices.shape, -1)
    behind = (indices + 1).clamp(max=stored.num_chunks - 1)
    first = stored.at("token_ids", behind)[..., :1].long().where(_goes_on(stored, indices)[..., None], torch.tensor(-1))
    counts = stored.at("counts", indices).cpu()[..., None]
    token_ids = stored.at("token_ids", indices).long()
    column = torch.arange(stored.layout.chunk_size)
    shifted = torch.cat((token_ids[..., 1:], first), dim=-1)
    ends = torch.where(column == counts - 1, first, shifted)
    return ends.where(column < counts, torch.tensor(-1))


def matched_suffix(stored: StoredChunks, indices: Tensor, recent: Tensor) -> Tensor:
    """How many tokens, each token of these chunks and those before it, equal `recent`: int64 [queries, top_k,
    chunk_size].

    indices: [queries, top_k]; recent: int64 [queries, length], the latest token first, -1: none. Counting goes back
    through chunks that were written one right after the other to the same document; one that is not full ends it.
    Many are followed back one token at a time, since most differ at once; a few all the way.
    """
    indices, recent = indices.cpu(), recent.cpu()  # token ids lie on the host
    size, length = stored.layout.chunk_size, recent.shape[1]
    equal = stored.at("token_ids", indices) == recent[:, None, :1]
    runs, matched = equal.long(), 1
    alive = equal.flatten().nonzero().squeeze(1)
    query, own = alive // (indices.shape[1] * size), indices.flatten()[alive // size]
    before = own * size + alive % size  # tokens counted from the row's first, as if all chunks were full
    while matched < length and len(alive):
        back = torch.arange(1, (1 if len(alive) > FEW else length - matched) + 1)
        wanted = recent[query, matched : matched + len(back)]
        same = _same_before(stored, before[:, None] - back, own[:, None], wanted).long().cumprod(dim=1).sum(dim=1)
        runs.view(-1)[alive] += same
        matched, on = matched + len(back), same == len(back)
        alive, query, own, before = alive[on], query[on], own[on], before[on] - len(back)
    return runs


def _same_before(stored: StoredChunks, tokens: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    """Whether the tokens at these places (below 0: there are none) are those wanted and in the same chunk as `own`, or
    in one that is full and goes on in the next."""
    size = stored.layout.chunk_size
    chunks, held = tokens.div(size, rounding_mode="floor"), tokens.clamp(min=0)
    ids = stored.at("token_ids", held // size).gather(-1, (held % size)[..., None]).squeeze(-1)
    return (ids == wanted) & ((chunks == own) | (chunks >= 0) & _leads_on(stored, chunks.clamp(min=0)))


def _goes_on(stored: StoredChunks, indices: Tensor) -> Tensor:
    """Whether the next chunk was written right after the one at each of these indices (any shape), to the same
    document."""
    behind = (indices + 1).clamp(max=stored.num_chunks - 1)
    here, there = ([stored.at(name, at).cpu() for name in ("numbers", "documents")] for at in (indices, behind))
    return (there[0] == here[0] + 1) & (there[1] == here[1])


def _leads_on(stored: StoredChunks, indices: Tensor) -> Tensor:
    """Whether the chunks at these indices (any shape) are full and go on in the next."""
    if indices.numel() > stored.num_chunks:
        return _leads_on(stored, torch.arange(stored.num_chunks)).take(indices)
    return (stored.at("counts", indices).cpu() == stored.layout.chunk_size) & _goes_on(stored, indices)


def latest_tokens(stored: StoredChunks, count: int) -> Tensor:
    """The last tokens held, at most `count`, int64 [tokens]."""
    chunks = min(count, stored.num_chunks)  # every chunk has a token
    first = stored.num_chunks - chunks
    token_ids, counts = (stored.ring.ordered(name, first, chunks) for name in ("token_ids", "counts"))
    held = torch.arange(stored.layout.chunk_size, device=token_ids.device) < counts[:, None]
    return token_ids[held][-count:].long()
