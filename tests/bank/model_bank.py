"""A bank as plain lists, slow and obvious: what the real one must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ltm.bank import Bank


def tokens_of(count: int, *, batch: int = 1, kv_heads: int = 2, head_dim: int = 8, seed: int = 0) -> tuple[Any, ...]:
    """Keys, values [batch, kv_heads, count, head_dim] and token ids [batch, count]."""
    random = torch.Generator().manual_seed(seed)
    shape = (batch, kv_heads, count, head_dim)
    keys, values = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
    return keys, values, torch.randint(0, 1000, (batch, count), generator=random)


@dataclass
class ModelChunk:
    """Tokens as they were written: keys and values [layers, kv_heads, tokens, head_dim]."""

    slot: int
    document: int | None
    token_ids: list[int]
    keys: Tensor
    values: Tensor


@dataclass
class ModelRow:
    """One row; sizes in tokens and chunks."""

    chunk_size: int
    max_tokens: int | None = None
    max_chunks: int | None = None
    chunks: list[ModelChunk] = field(default_factory=list)
    next_slot: int = 0

    def write(self, keys: Tensor, values: Tensor, token_ids: list[int], document: int | None) -> None:
        for start in range(0, len(token_ids), self.chunk_size):
            part = slice(start, start + self.chunk_size)
            chunk = ModelChunk(self.next_slot, document, token_ids[part], keys[:, :, part], values[:, :, part])
            self.chunks.append(chunk)
            self.next_slot += 1
        while self.max_tokens is not None and self.num_tokens > self.max_tokens:
            self.chunks.pop(0)
        while self.max_chunks is not None and len(self.chunks) > self.max_chunks:
            self.chunks.pop(0)

    def delete(self, document: int) -> None:
        self.chunks = [chunk for chunk in self.chunks if chunk.document != document]

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks)


def assert_row_is(bank: Bank, row: int, model: ModelRow) -> None:
    """The row's chunks are the model's, in every field, and found by their slots."""
    assert (bank.num_tokens(row), bank.num_chunks(row)) == (model.num_tokens, len(model.chunks))
    slots = [chunk.slot for chunk in model.chunks]
    for source, chunk in zip(bank.sources(slots, row), model.chunks, strict=True):
        assert (source.document, source.token_ids) == (chunk.document, chunk.token_ids)
    if not slots:
        return
    layers, kv_heads = model.chunks[0].keys.shape[:2]
    for layer in range(layers):
        found = bank.search(torch.zeros(1, kv_heads, 1, bank.head_dim), len(slots), rows=[row], layer=layer)
        assert sorted(found.slots[0, 0, 0].tolist()) == slots and bool(found.valid.all())
        hits = found._replace(slots=torch.tensor(slots).expand(1, kv_heads, 1, -1))
        keys, values, mask = bank.gather(hits, rows=[row], layer=layer)
        for index, chunk in enumerate(model.chunks):
            size, columns = len(chunk.token_ids), slice(index * model.chunk_size, (index + 1) * model.chunk_size)
            assert mask[0, 0, 0, columns].tolist() == [place < size for place in range(model.chunk_size)]
            assert torch.equal(keys[0, :, 0, columns][:, :size], chunk.keys[layer].to(bank.dtype))
            assert torch.equal(values[0, :, 0, columns][:, :size], chunk.values[layer].to(bank.dtype))
