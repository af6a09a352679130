"""A tensor that is kept for each chunk, or event: its shape, dtype and place."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from mmap import mmap

import torch
from torch import Tensor

Chunks = dict[str, Tensor]
"""Consecutive chunks of a row: one tensor for each field of `ChunkLayout.fields`, chunks along its axis."""


@dataclass(frozen=True)
class Field:
    """Shape before and after the axis of chunks. offload: chunks above which it lies in a temporary file, or None."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    offload: int | None = None

    @property
    def axis(self) -> int:
        return len(self.before)

    @property
    def bytes_per_chunk(self) -> int:
        return prod(self.before) * prod(self.after) * self.dtype.itemsize

    def empty(self, num_chunks: int) -> Tensor:
        shape = (*self.before, num_chunks, *self.after)
        if self.offload is not None and num_chunks > self.offload and self.device.type == "cpu":
            return file_backed(shape, self.dtype)
        return torch.empty(shape, dtype=self.dtype, device=self.device)


def file_backed(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor in a temporary file that vanishes with it; the system keeps in RAM what is used, as far as there is
    room. The file lies where `tempfile` puts it (TMPDIR)."""
    num_bytes = prod(shape) * dtype.itemsize
    if not num_bytes:
        return torch.empty(*shape, dtype=dtype)
    with tempfile.TemporaryFile(prefix="ltm-bank-") as file:
        file.truncate(num_bytes)
        mapped = mmap(file.fileno(), num_bytes)  # the mapping keeps the nameless file
    return torch.frombuffer(mapped, dtype=dtype).view(*shape)  # and the tensor the mapping
