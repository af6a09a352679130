"""What of the local window itself a token may copy after: tokens at least TOKENS_BACK before it, the most similar ones.

The window's keys are those that wait to be remembered. A token sees what stands before it in its window, however it
came there, so that whole, in pieces and one by one are the same; what the window held before it moved on is in reach
as memory. A place in the window counts as one without a run: the model continues exact repetitions itself, and copying
them once more is what costs where a text repeats itself (docs/log). What is copied from the window alone is trusted
less by WITHIN_ODDS, since the shipped networks were fitted to what the model does not see.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ltm.methods.attention.longmem.pointer import LONGEST_RUN, Pointer
from ltm.streams import Window

TOKENS_BACK = 8
"""Nearer ones the model needs no help with: from 1 on a quarter less is gained, from 16 on as much (docs/log)."""
BLOCK = 256
"""Queries that are compared with a whole window at a time."""


class Held(NamedTuple):
    """A window's columns, the new ones last: keys [batch, kv_heads, columns, head_dim], position-free; mask bool
    [batch, columns], False = padding; recent int64 [batch, columns, LONGEST_RUN] and following int64 [batch, columns]
    as of `surroundings`."""

    keys: Tensor
    mask: Tensor
    recent: Tensor
    following: Tensor


def places_within(pointer: Pointer, queries: Tensor, held: Held, most: int) -> tuple[Tensor, Tensor]:
    """The `most` nearest of the window before each of its last tokens: their similarity (-1: none) and the token that
    followed each (-1: none), both [batch, tokens, slots].

    queries: [batch, kv_heads, tokens, head_dim], of these last tokens, from `Pointer.unit_queries`.
    """
    columns, tokens = held.mask.shape[1], queries.shape[2]
    order, rows = held.mask.long().cumsum(dim=1), torch.arange(len(queries), device=queries.device)[:, None, None]
    found = []
    for start in range(0, tokens, BLOCK):
        own = slice(columns - tokens + start, min(columns - tokens + start + BLOCK, columns))
        allowed = held.mask[:, None] & held.mask[:, own, None] & (order[:, own, None] - order[:, None] >= TOKENS_BACK)
        similarity = pointer.similarity_to_all(queries[:, :, start : start + BLOCK], held.keys.detach())
        nearest, places = similarity.masked_fill(~allowed, -1.0).topk(min(most, columns), dim=-1)
        found.append((nearest, held.following[rows, places].where(allowed.gather(-1, places), -1)))
    nearest, next_ids = (torch.cat(blocks, dim=1) for blocks in zip(*found, strict=True))
    return nearest, next_ids


def held_columns(window: Window, keys: Tensor) -> Held:
    """All columns of a window, of whose new ones these are the keys; the others' are those noted in its stream."""
    if window.stream is not None and window.mask.shape[1] > window.ids.shape[1]:
        keys = torch.cat((window.stream.carried["memory_keys"], keys), dim=2)
    return Held(keys, window.mask, *surroundings(window_ids(window), window.mask))


def window_ids(window: Window) -> Tensor:
    """Of all columns that a window's mask has, int64 [batch, columns]; some number where there is padding."""
    stream, new = window.stream, window.ids.shape[1]
    if stream is None or stream.tokens is None or window.mask.shape[1] == new:
        return window.ids
    held = torch.zeros_like(window.mask[:, :-new], dtype=torch.long)
    held[window.mask[:, :-new]] = torch.cat(stream.tokens)
    return torch.cat((held, window.ids), dim=1)


def surroundings(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Each token with those before it, the latest first, int64 [batch, columns, LONGEST_RUN], and the token after it,
    int64 [batch, columns]; -1 where there is none, or padding.

    >>> recent, following = surroundings(torch.tensor([[7, 0, 9]]), torch.tensor([[True, False, True]]))
    >>> recent[0, 2, :3].tolist(), following.tolist()
    ([9, 7, -1], [[9, -1, -1]])
    """
    batch, columns = ids.shape
    order = mask.long().cumsum(dim=1) - 1  # of each token in its row
    line = ids.new_full((batch, LONGEST_RUN + columns + 1), -1)  # the last column is for padding
    line.scatter_(1, torch.where(mask, order + LONGEST_RUN - 1, LONGEST_RUN + columns), ids)
    line[:, -1] = -1
    rows = torch.arange(batch, device=ids.device)[:, None]
    recent = line.unfold(1, LONGEST_RUN, 1)[rows, order.clamp(min=0)].flip(-1)
    following = line.gather(1, order + LONGEST_RUN)
    return recent.where(mask[..., None], -1), following.where(mask, -1)
