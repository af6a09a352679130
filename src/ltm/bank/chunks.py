"""What is stored of a chunk and of an event, and how a run of tokens is cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ltm.bank.mapped import file_backed
from ltm.errors import BankError

Chunks = dict[str, Tensor]
"""Consecutive chunks of a row: one tensor for each field of `ChunkLayout.fields`, chunks along its axis."""

NO_DOCUMENT = -1
"""In the field `documents`: a chunk that was written without one."""
HEAVY = ("keys", "values")
"""The fields that make up most of a bank, which may stay on disk."""


@dataclass(frozen=True)
class Field:
    """A tensor kept for each chunk (or event): its shape before and after the axis of chunks.

    offload: chunks above which it lies in a temporary file; None: never.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    offload: int | None = None

    @property
    def axis(self) -> int:
        return len(self.before)

    def empty(self, num_chunks: int) -> Tensor:
        shape = (*self.before, num_chunks, *self.after)
        if self.offload is not None and num_chunks > self.offload and self.device.type == "cpu":
            return file_backed(shape, self.dtype)
        return torch.empty(shape, dtype=self.dtype, device=self.device)


class EventCut(NamedTuple):
    """How the tokens of one write fall into events: sizes int64 [events], which add up to the tokens, and their
    representative keys [layers, events, event_heads * head_dim]."""

    sizes: Tensor
    keys: Tensor


@dataclass(frozen=True)
class ChunkLayout:
    """Shapes of everything that a bank stores.

    keys and values [layers, kv_heads, chunks, chunk_size, head_dim]; search_keys without chunk_size: means of the
    keys; numbers [chunks]: the chunk's slot; counts [chunks]: its tokens, fewer than chunk_size at the end of a write;
    and on the host documents [chunks], token_ids [chunks, chunk_size], spans [chunks, chunk_size, 2] (-1: not known).

    With event_heads there are no search_keys but events, in the order of their tokens: event_keys [layers, events,
    event_heads * head_dim]; and on the host starts [events]: the slot of the first token, and sizes [events].
    """

    num_layers: int
    num_kv_heads: int
    chunk_size: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    event_heads: int | None = None
    offload: int | None = None

    @cached_property
    def fields(self) -> dict[str, Field]:
        heads, cpu, int32 = (self.num_layers, self.num_kv_heads), torch.device("cpu"), torch.int32
        entries = Field(heads, (self.chunk_size, self.head_dim), self.dtype, self.device, self.offload)
        search_keys = {"search_keys": Field(heads, (self.head_dim,), self.dtype, self.device)}
        return {
            "keys": entries,
            "values": entries,
            **(search_keys if self.event_heads is None else {}),
            "numbers": Field((), (), torch.int64, self.device),
            "counts": Field((), (), int32, self.device),
            "documents": Field((), (), int32, cpu),
            "token_ids": Field((), (self.chunk_size,), int32, cpu),
            "spans": Field((), (self.chunk_size, 2), int32, cpu),
        }

    @cached_property
    def event_fields(self) -> dict[str, Field]:
        """What is stored of an event; empty without events."""
        if self.event_heads is None:
            return {}
        cpu = torch.device("cpu")
        return {
            "event_keys": Field((self.num_layers,), (self.event_heads * self.head_dim,), self.dtype, self.device),
            "starts": Field((), (), torch.int64, cpu),
            "sizes": Field((), (), torch.int32, cpu),
        }

    @property
    def bytes_per_chunk(self) -> int:
        """Of all fields together."""
        return _bytes_of(self.fields)

    @property
    def bytes_per_event(self) -> int:
        """Of all fields of events together; 0 without events."""
        return _bytes_of(self.event_fields)

    def events(self, cut: EventCut, first: int) -> Chunks:
        """Events as they are stored; first: the slot of their first token."""
        starts = first + torch.cumsum(cut.sizes, dim=0) - cut.sizes
        return {
            "event_keys": cut.keys.detach().to(device=self.device, dtype=self.dtype),
            "starts": starts.cpu(),
            "sizes": cut.sizes.to(torch.int32).cpu(),
        }

    def check_events(self, cut: EventCut | None, tokens: int) -> None:
        """Raise BankError where a write's events are missing, of a wrong shape or do not cover its tokens."""
        if (cut is None) != (self.event_heads is None):
            raise BankError("a bank with event_heads is written to with events=[...], any other without")
        if cut is None or self.event_heads is None:
            return
        shape = (self.num_layers, len(cut.sizes), self.event_heads * self.head_dim)
        if tuple(cut.keys.shape) != shape or int(cut.sizes.sum()) != tokens or int(cut.sizes.min()) < 1:
            raise BankError(
                f"events of sizes {cut.sizes.tolist()} with keys {tuple(cut.keys.shape)} for {tokens} tokens; "
                f"give sizes of 1 or more that add up to the tokens, and keys {shape}: layers, events, "
                f"event_heads * head_dim"
            )

    def cut(
        self, keys: Tensor, values: Tensor, token_ids: Tensor, spans: Tensor | None, document: int | None
    ) -> Chunks:
        """Tokens of one row, in order, as chunks without numbers; the last one may be short, its rest is zero.

        keys and values: [layers, kv_heads, tokens, head_dim]; token_ids: [tokens]; spans: [tokens, 2] or None.
        """
        tokens, size = token_ids.shape[0], self.chunk_size
        num_chunks = -(-tokens // size)
        counts = torch.full((num_chunks,), size, dtype=torch.int32, device=self.device)
        counts[-1:] = tokens - size * (num_chunks - 1)
        spans = torch.full((tokens, 2), -1) if spans is None else spans
        chunked_keys = self._chunked("keys", keys, tokens)
        search_keys = {} if self.event_heads is not None else {"search_keys": self._means(chunked_keys, counts)}
        return {
            "keys": chunked_keys,
            "values": self._chunked("values", values, tokens),
            **search_keys,
            "counts": counts,
            "documents": torch.full((num_chunks,), NO_DOCUMENT if document is None else document, dtype=torch.int32),
            "token_ids": self._chunked("token_ids", token_ids, tokens),
            "spans": self._chunked("spans", spans, tokens, fill=-1),
        }

    def _means(self, chunked_keys: Tensor, counts: Tensor) -> Tensor:
        """The mean key of each chunk, [layers, kv_heads, chunks, head_dim]."""
        precise = torch.promote_types(self.dtype, torch.float32)
        return (chunked_keys.sum(dim=3, dtype=precise) / counts[:, None]).to(self.dtype)

    def _chunked(self, name: str, tensor: Tensor, tokens: int, fill: int = 0) -> Tensor:
        """[..., tokens, ...] to [..., chunks, chunk_size, ...] in the field's dtype and place, filled up at the end."""
        field = self.fields[name]
        tensor = tensor.detach().to(device=field.device, dtype=field.dtype)
        missing = -tokens % self.chunk_size
        if missing:
            shape = list(tensor.shape)
            shape[field.axis] = missing
            tensor = torch.cat((tensor, tensor.new_full(shape, fill)), dim=field.axis)
        return tensor.unflatten(field.axis, (-1, self.chunk_size))


def _bytes_of(fields: dict[str, Field]) -> int:
    """Bytes that one chunk, or event, takes."""
    return sum(prod(f.before) * prod(f.after) * f.dtype.itemsize for f in fields.values())
