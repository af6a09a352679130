"""Keys and values in files mapped into memory: those a bank was saved in, and temporary ones for what is too much."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod
from mmap import mmap

import torch
from torch import Tensor


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


class MappedEntries:
    """keys and values of a row's chunks, spread in order over blocks: one for each file.

    blocks: "keys" and "values" [layers, kv_heads, chunks of the block, chunk_size, head_dim] each. They are only read.
    """

    def __init__(self, blocks: Sequence[Mapping[str, Tensor]]):
        self.blocks = list(blocks)
        self.ends = list(accumulate(block["keys"].shape[2] for block in self.blocks))
        self.bounds = torch.tensor(self.ends)

    @property
    def nbytes(self) -> int:
        """Bytes mapped; only those that were looked at are in memory, and the system may drop them again."""
        return sum(tensor.numel() * tensor.element_size() for block in self.blocks for tensor in block.values())

    def ordered(self, name: str, first: int, count: int) -> Tensor:
        """A copy of `count` chunks from the first-th on, in order: [layers, kv_heads, count, chunk_size, head_dim]."""
        parts = []
        for block, end in zip(self.blocks, self.ends, strict=True):
            size = block[name].shape[2]
            low, high = max(first - (end - size), 0), min(first + count - (end - size), size)
            if high > low:
                parts.append(block[name][:, :, low:high])
        return torch.cat(parts, dim=2) if parts else self.blocks[0][name][:, :, :0].clone()

    def gather(self, layer: int, head: int, places: Tensor, outs: Mapping[str, Tensor]) -> None:
        """Chunks at these places in order (int64 [n]) into "keys" and "values" [n, chunk_size * head_dim]."""
        if len(self.blocks) == 1:
            for name, out in outs.items():
                torch.index_select(self.blocks[0][name][layer, head].flatten(1), 0, places, out=out)
            return
        owner = torch.bucketize(places, self.bounds, right=True)
        for number in owner.unique().tolist():
            chosen = (owner == number).nonzero().squeeze(1)
            within = places[chosen] - (self.ends[number - 1] if number else 0)
            for name, out in outs.items():
                out.index_copy_(0, chosen, self.blocks[number][name][layer, head].flatten(1).index_select(0, within))
