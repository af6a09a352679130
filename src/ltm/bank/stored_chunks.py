"""The chunks of a row where they lie, in buffers or in mapped files, and how entries are fetched from them as floats.

A chunk's *index* is its place among the row's chunks now, 0 the oldest; its *slot* is the number that it was given when
it was written, and keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ltm.bank.chunks import ChunkLayout
from ltm.bank.mapped import MappedEntries
from ltm.bank.ring import Ring
from ltm.bank.storage import FLOATS, SCALE
from ltm.bank.stored_tensor import Chunks


class StoredChunks:
    """Fields of chunks in a ring of buffers, of which some may still be in the files they were loaded from."""

    def __init__(self, layout: ChunkLayout):
        self.layout = layout
        self.ring = Ring(layout.fields)
        self.mapped: MappedEntries | None = None

    @property
    def num_chunks(self) -> int:
        return self.ring.length

    def field(self, name: str, first: int, count: int) -> Tensor:
        """A stored field of `count` chunks from index `first` on, wherever it lies."""
        here = name in self.ring.buffers
        return self.ring.ordered(name, first, count) if here else self._files().ordered(name, first, count)

    def at(self, name: str, indices: Tensor) -> Tensor:
        """A field without leading axes (slots, counts, ...) of the chunks at these indices, any shape."""
        return self.ring.buffers[name][self.ring.position(indices)]

    def gather(self, layer: int, head: int, indices: Tensor, into: Mapping[str, Tensor]) -> None:
        """Entries ("keys", "values") of the chunks at these indices [n], each [n, chunk_size * head_dim].

        Only these are decoded where entries are quantised."""
        for name, out in into.items():
            codec = self.layout.codecs[name]
            if codec.bits is None and FLOATS[codec.storage] == out.dtype:
                self._take(name, layer, head, indices, out)
            elif codec.bits is None:
                out.copy_(self._take(name, layer, head, indices))
            else:
                stored = (self._take(part, layer, head, indices) for part in (name, name + SCALE))
                center = self.layout.center(name)
                decoded = codec.decode_rows(*stored)
                out.copy_(codec.restore(decoded, None if center is None else center[layer, head]).flatten(1))

    def entries(self, layer: int, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, n, head_dim] of all heads at indices: int64 [n], or a range (a view where that is
        possible). Of rows whose chunks are single tokens."""
        return self._entries("keys", layer, indices), self._entries("values", layer, indices)

    def entry_keys(self, layer: int, indices: Tensor | slice) -> Tensor:
        """The keys of `entries` alone."""
        return self._entries("keys", layer, indices)

    def map(self, blocks: Sequence[Chunks]) -> None:
        """Leave the fields of `blocks`, which are mapped from files, where they are; the row is still empty."""
        self.mapped = MappedEntries(blocks, {name: self.layout.fields[name].axis for name in blocks[0]})
        for name in self.mapped.names:
            del self.ring.buffers[name]

    def bring_into_memory(self) -> None:
        """Copy what is mapped from files into buffers: it is about to change."""
        if self.mapped is not None:
            for name in self.mapped.names:
                self.ring.buffers[name] = self.layout.fields[name].empty(self.num_chunks)
                self.ring.buffers[name].copy_(self.mapped.ordered(name, 0, self.num_chunks))
            self.mapped = None

    def _take(self, name: str, layer: int, head: int, indices: Tensor, out: Tensor | None = None) -> Tensor:
        """A stored field of one layer and head at these indices, [n, all the rest]."""
        if name not in self.ring.buffers:
            return self._files().take(name, layer, head, indices, out)
        stored = self.ring.buffers[name][layer, head]
        return torch.index_select(stored.view(len(stored), -1), 0, self.ring.position(indices), out=out)

    def _entries(self, name: str, layer: int, indices: Tensor | slice) -> Tensor:
        """ "keys" or "values" [kv_heads, n, head_dim]; only these are decoded where they are quantised."""
        codec, center = self.layout.codecs[name], self.layout.center(name)
        if codec.bits is None:
            floats = self._pick(name, layer, indices)  # [kv_heads, n, 1, head_dim]
        else:
            decoded = codec.decode(*(self._pick(part, layer, indices) for part in (name, name + SCALE)))
            floats = codec.restore(decoded, None if center is None else center[layer][:, None, None])
        return floats.flatten(1, 2).to(self.layout.dtype)

    def _pick(self, name: str, layer: int, indices: Tensor | slice) -> Tensor:
        """A stored field of one layer and all heads at indices, [kv_heads, n, all the rest]."""
        if name in self.ring.buffers:
            if isinstance(indices, slice):
                return self.ring.ordered(name, indices.start, indices.stop - indices.start)[layer]
            return self.ring.buffers[name][layer].index_select(1, self.ring.position(indices))
        return self._files().pick(name, layer, indices)

    def _files(self) -> MappedEntries:
        assert self.mapped is not None
        return self.mapped
