"""What is stored of a chunk, and how a run of tokens is cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

Chunks = dict[str, Tensor]
"""Consecutive chunks of a row: one tensor for each field of `ChunkLayout.fields`, chunks along its axis."""

NO_DOCUMENT = -1
"""In the field `documents`: a chunk that was written without one."""
HEAVY = ("keys", "values")
"""The fields that make up most of a bank, which may stay on disk."""


@dataclass(frozen=True)
class Field:
    """A tensor kept for each chunk: its shape before and after the axis of chunks."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def axis(self) -> int:
        return len(self.before)

    def empty(self, num_chunks: int) -> Tensor:
        return torch.empty(*self.before, num_chunks, *self.after, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class ChunkLayout:
    """Shapes of everything that a bank stores.

    keys and values [layers, kv_heads, chunks, chunk_size, head_dim]; search_keys without chunk_size: means of the
    keys; numbers [chunks]: the chunk's slot; counts [chunks]: its tokens, fewer than chunk_size at the end of a write;
    and on the host documents [chunks], token_ids [chunks, chunk_size], spans [chunks, chunk_size, 2] (-1: not known).
    """

    num_layers: int
    num_kv_heads: int
    chunk_size: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @cached_property
    def fields(self) -> dict[str, Field]:
        heads, cpu, int32 = (self.num_layers, self.num_kv_heads), torch.device("cpu"), torch.int32
        entries = Field(heads, (self.chunk_size, self.head_dim), self.dtype, self.device)
        return {
            "keys": entries,
            "values": entries,
            "search_keys": Field(heads, (self.head_dim,), self.dtype, self.device),
            "numbers": Field((), (), torch.int64, self.device),
            "counts": Field((), (), int32, self.device),
            "documents": Field((), (), int32, cpu),
            "token_ids": Field((), (self.chunk_size,), int32, cpu),
            "spans": Field((), (self.chunk_size, 2), int32, cpu),
        }

    @property
    def bytes_per_chunk(self) -> int:
        """Of all fields together."""
        return sum(prod(f.before) * prod(f.after) * f.dtype.itemsize for f in self.fields.values())

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
        precise = torch.promote_types(self.dtype, torch.float32)
        means = chunked_keys.sum(dim=3, dtype=precise) / counts[:, None]  # [layers, kv_heads, chunks, head_dim]
        return {
            "keys": chunked_keys,
            "values": self._chunked("values", values, tokens),
            "search_keys": means.to(self.dtype),
            "counts": counts,
            "documents": torch.full((num_chunks,), NO_DOCUMENT if document is None else document, dtype=torch.int32),
            "token_ids": self._chunked("token_ids", token_ids, tokens),
            "spans": self._chunked("spans", spans, tokens, fill=-1),
        }

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
