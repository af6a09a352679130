"""What followed the tokens of remembered chunks, and how far those before them are the present ones: the questions of
n-grams that LongMem's pointer asks. They look at slots, documents and token ids alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ltm.bank.stored_chunks import StoredChunks


def following(stored: StoredChunks, indices: Tensor) -> Tensor:
    """The token that came after each token of the chunks at these indices (any shape), int64 [..., chunk_size]; -1: not
    known. A chunk goes on in the next one if that was written right after it, to the same document."""
    indices = indices.cpu()
    behind = (indices + 1).clamp(max=stored.num_chunks - 1)
    slots, documents = (stored.ring.buffers[name].cpu() for name in ("numbers", "documents"))
    here, there = stored.ring.position(indices), stored.ring.position(behind)
    linked = (slots[there] == slots[here] + 1) & (documents[there] == documents[here])
    first = stored.at("token_ids", behind)[..., :1].long().where(linked[..., None], torch.tensor(-1))
    counts = stored.ring.buffers["counts"].cpu()[here][..., None]
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
    """
    recent = recent.cpu()  # token ids lie on the host
    size, length = stored.layout.chunk_size, recent.shape[1]
    back = torch.arange(1 - (1 - length) // size)  # the chunk itself, and enough before it
    before = indices.cpu()[..., None] - back  # [queries, top_k, chunks]
    names = ("numbers", "documents", "counts", "token_ids")
    slots, documents, counts, token_ids = (stored.at(name, before.clamp(min=0)).cpu() for name in names)
    linked = (before >= 0) & (slots == slots[..., :1] - back) & (documents == documents[..., :1])
    linked &= (counts == size) | (back == 0)
    linked = linked.int().cumprod(dim=-1).bool()
    latest_first = token_ids.masked_fill(~linked[..., None], -2).flip(-1).flatten(-2)  # [queries, top_k, tokens]
    pasts = latest_first.unfold(-1, length, 1)[..., :size, :].flip(-2)  # [queries, top_k, chunk_size, length]
    equal = pasts == recent[:, None, None]
    return equal.int().cumprod(dim=-1).sum(dim=-1)


def latest_tokens(stored: StoredChunks, count: int) -> Tensor:
    """The last tokens held, at most `count`, int64 [tokens]."""
    chunks = min(count, stored.num_chunks)  # every chunk has a token
    first = stored.num_chunks - chunks
    token_ids, counts = (stored.ring.ordered(name, first, chunks) for name in ("token_ids", "counts"))
    held = torch.arange(stored.layout.chunk_size, device=token_ids.device) < counts[:, None]
    return token_ids[held][-count:].long()
