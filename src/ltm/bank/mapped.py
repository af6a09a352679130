"""Fields of a row that stay in the files they were saved in, mapped into memory and fetched from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ltm.bank.stored_tensor import Chunks


class MappedEntries:
    """Fields of a row's chunks (keys, values, their scales, ...), spread in order over blocks: one for each file.

    blocks: the same fields each, [layers, kv_heads, chunks of the block, ...]; axes: of chunks, of each field. They
    are only read.
    """

    def __init__(self, blocks: Sequence[Chunks], axes: Mapping[str, int]):
        self.blocks, self.axes = list(blocks), dict(axes)
        self.names = tuple(self.axes)
        first = self.names[0]
        self.ends = list(accumulate(block[first].shape[self.axes[first]] for block in self.blocks))
        self.bounds = torch.tensor(self.ends)
        self.starts = torch.tensor([0, *self.ends[:-1]])
        self._layers: dict[tuple[str, int], list[Tensor]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes mapped; only those that were looked at are in memory, and the system may drop them again."""
        return sum(tensor.numel() * tensor.element_size() for block in self.blocks for tensor in block.values())

    def ordered(self, name: str, first: int, count: int) -> Tensor:
        """A field of `count` chunks from index `first` on: a view where they lie in one file, else a copy."""
        axis, cut = self.axes[name], self._cut(first, first + count)
        parts = [self.blocks[number][name].narrow(axis, low, high - low) for number, low, high in cut]
        if not parts:
            return self.blocks[0][name].narrow(axis, 0, 0)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)

    def take(self, name: str, layer: int, head: int, indices: Tensor, out: Tensor | None = None) -> Tensor:
        """A field of one layer and head at these indices (int64 [n]), [n, all the rest]."""
        if len(self.blocks) == 1:
            return torch.index_select(self._rows(0, name, layer, head), 0, indices, out=out)
        owner = torch.bucketize(indices, self.bounds, right=True)
        if out is None:
            sample = self._rows(0, name, layer, head)
            out = sample.new_empty(len(indices), sample.shape[1])
        for number in owner.unique().tolist():
            chosen = (owner == number).nonzero().squeeze(1)
            within = indices[chosen] - (self.ends[number - 1] if number else 0)
            out.index_copy_(0, chosen, self._rows(number, name, layer, head).index_select(0, within))
        return out

    def pick(self, name: str, layer: int, indices: Tensor | slice) -> Tensor:
        """A field of one layer and all heads at indices (int64 [n], or a range): [kv_heads, n, all the rest];
        a view where a range lies in one file."""
        own = self._of_layer(name, layer)
        if isinstance(indices, slice):
            found = [own[number][:, low:high] for number, low, high in self._cut(indices.start, indices.stop)]
        elif len(own) == 1:
            return own[0].index_select(1, indices)
        else:
            owner = torch.bucketize(indices, self.bounds, right=True)
            if bool((owner[1:] < owner[:-1]).any()):
                by_block = owner.argsort(stable=True)
                return self.pick(name, layer, indices[by_block]).index_select(1, by_block.argsort())
            counts = torch.bincount(owner, minlength=len(own)).tolist()
            within = (indices - self.starts[owner]).split(counts)
            found = [part.index_select(1, at) for part, at in zip(own, within, strict=True) if len(at)]
        if not found:
            return own[0][:, :0]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def _cut(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Of each block that holds any of the chunks from first to stop: its number, and which of its own they are."""
        for number, (start, end) in enumerate(zip([0, *self.ends], self.ends, strict=False)):
            low, high = max(first, start) - start, min(stop, end) - start
            if high > low:
                yield number, low, high

    def _of_layer(self, name: str, layer: int) -> list[Tensor]:
        """Of each block a field of one layer, [kv_heads, chunks of the block, all the rest]."""
        known = self._layers.get((name, layer))
        if known is None:  # slicing costs more than picking a few rows
            known = self._layers[name, layer] = [block[name][layer] for block in self.blocks]
        return known

    def _rows(self, block: int, name: str, layer: int, head: int) -> Tensor:
        stored = self.blocks[block][name][layer, head]
        return stored.view(len(stored), -1) if stored.is_contiguous() else stored.flatten(1)
