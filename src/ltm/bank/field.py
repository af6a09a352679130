"""A tensor that is kept for each chunk: its shape, dtype and place."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

Chunks = dict[str, Tensor]
"""Consecutive chunks of a row: one tensor for each field of `ChunkLayout.fields`, chunks along its axis."""


@dataclass(frozen=True)
class Field:
    """Shape before and after the axis of chunks."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def axis(self) -> int:
        return len(self.before)

    @property
    def bytes_per_chunk(self) -> int:
        return prod(self.before) * prod(self.after) * self.dtype.itemsize

    def empty(self, num_chunks: int) -> Tensor:
        return torch.empty(*self.before, num_chunks, *self.after, dtype=self.dtype, device=self.device)
