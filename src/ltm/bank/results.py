"""What a bank gives back: what was found, what was fetched, where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Hits(NamedTuple):
    """The chunks found for each query, best first; all [batch, heads, tokens, top_k].

    slots: int64, each counts the chunks of its memory row from the first write, stays the same while the chunk lives
    and is never given to another, so it still names the chunk after evictions and deletions.
    scores: inner products in the bank's dtype. valid: bool; False where the row holds fewer chunks than were asked
    for, and there the slot is 0 and the score -inf.
    """

    slots: Tensor
    scores: Tensor
    valid: Tensor


class Retrieved(NamedTuple):
    """keys and values [batch, heads, tokens, top_k * chunk_size, head_dim], mask bool without the last axis (False:
    nothing there), and the hits they came from. Chunk i of the hits fills columns i * chunk_size and following."""

    keys: Tensor
    values: Tensor
    mask: Tensor
    hits: Hits


class Neighbours(NamedTuple):
    """What lies nearest to each query over all heads together.

    keys [batch, kv_heads, tokens, top_k * chunk_size, head_dim]; next_ids int64 [batch, tokens, top_k * chunk_size]:
    the token that followed each of them in the past, -1 where none is known or nothing was found; runs int64, of the
    same shape: how many tokens, it and those before it, are the present ones (0 where those were not given or nothing
    followed); hits: as of one head, [batch, 1, tokens, top_k], in order of writing.
    """

    keys: Tensor
    next_ids: Tensor
    runs: Tensor
    hits: Hits


@dataclass(frozen=True)
class ChunkSource:
    """Where a chunk came from.

    document: its id, None if it was written without one. start, end: the range of characters in the document's text
    (both 0: not known). token_ids: its tokens; empty if the chunk has been evicted or deleted since, and then the
    rest is not known either.
    """

    slot: int
    document: int | None
    start: int
    end: int
    token_ids: list[int]


@dataclass(frozen=True)
class DocumentInfo:
    """A document of a bank. num_tokens and num_chunks are what is held of it now; num_chars is its text's length, 0
    without text; complete: it was read to its end."""

    id: int
    name: str
    row: int
    num_tokens: int
    num_chunks: int
    num_chars: int
    complete: bool
