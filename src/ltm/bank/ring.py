"""Chunks in order of writing, in buffers that wrap around: evicting the oldest moves nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ltm.bank.stored_tensor import Chunks, Field


class RingMark:
    """How a ring is now, and what was overwritten in its buffers since. Costs nothing until something is."""

    def __init__(self, ring: Ring):
        self.buffers = dict(ring.buffers)
        self.capacity, self.start, self.length = ring.capacity, ring.start, ring.length
        self.held = ring._ranges(0, ring.length)
        self.untouched: Tensor | None = None  # bool [capacity], once there is any need
        self.overwritten: list[tuple[Tensor, Tensor]] = []

    def before_writing(self, ring: Ring, low: int, high: int) -> None:
        """Note what stands in a ring's buffers at these positions, where they are still those of the mark."""
        if not any(first < high and low < last for first, last in self.held):
            return
        if self.untouched is None:
            self.untouched = torch.zeros(self.capacity, dtype=torch.bool)
            for first, last in self.held:
                self.untouched[first:last] = True
        if not bool(self.untouched[low:high].any()):
            return
        for name, buffer in ring.buffers.items():
            if self.buffers.get(name) is buffer:
                part = buffer.narrow(ring.fields[name].axis, low, high - low)
                self.overwritten.append((part, part.clone()))
        self.untouched[low:high] = False


class Ring:
    """A queue of chunks (or events). The one of index i (0 the oldest) lies at position (start + i) % capacity of
    every buffer.

    >>> ring = Ring(layout.fields)  # doctest: +SKIP
    >>> ring.reserve(16); ring.append(chunks); ring.evict(2)  # doctest: +SKIP
    """

    def __init__(self, fields: Mapping[str, Field]):
        self.fields: dict[str, Field] = dict(fields)
        self.buffers: Chunks = {name: field.empty(0) for name, field in self.fields.items()}
        self.capacity = self.start = self.length = 0
        self.marks: list[RingMark] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, room that is not used yet included."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers.values())

    def append(self, chunks: Chunks) -> None:
        """Add chunks at the end; there must be room."""
        added = self._count(chunks)
        done = 0
        for low, high in self._ranges(self.length, added):
            for mark in self.marks:
                mark.before_writing(self, low, high)
            for name, buffer in self.buffers.items():
                axis = self.fields[name].axis
                buffer.narrow(axis, low, high - low).copy_(chunks[name].narrow(axis, done, high - low))
            done += high - low
        self.length += added

    def evict(self, count: int) -> None:
        """Remove the oldest chunks."""
        if count:
            self.length -= count
            self.start = (self.start + count) % self.capacity if self.length else 0

    def reserve(self, capacity: int) -> None:
        """Buffers for so many chunks, what is there kept; one buffer after another, to need less at a time."""
        for name in self.buffers:
            fresh = self.fields[name].empty(capacity)
            axis = self.fields[name].axis
            fresh.narrow(axis, 0, self.length).copy_(self.ordered(name))
            self.buffers[name] = fresh
        self.capacity, self.start = capacity, 0

    def keep(self, indices: Tensor) -> None:
        """Keep only the chunks at these indices (int64, ascending), in buffers that just hold them."""
        for name in self.buffers:
            axis = self.fields[name].axis
            self.buffers[name] = self.ordered(name).index_select(axis, indices.to(self.fields[name].device))
        self.capacity = self.length = indices.shape[0]
        self.start = 0

    def ordered(self, name: str, first: int = 0, count: int | None = None) -> Tensor:
        """A field of `count` chunks from index `first` on: a view, or a copy where they wrap around."""
        parts = self.parts(name, first, count)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=self.fields[name].axis)

    def parts(self, name: str, first: int = 0, count: int | None = None) -> list[Tensor]:
        """The same as one view, or two where they wrap around."""
        axis = self.fields[name].axis
        ranges = self._ranges(first, self.length - first if count is None else count)
        return [self.buffers[name].narrow(axis, low, high - low) for low, high in ranges]

    def position(self, indices: Tensor) -> Tensor:
        """Positions in the buffers of chunks by their indices."""
        return (indices + self.start) % self.capacity if self.start else indices

    def copy(self) -> Ring:
        """The same chunks in buffers of their own."""
        other = Ring(self.fields)
        other.buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        other.capacity, other.start, other.length = self.capacity, self.start, self.length
        return other

    def mark(self) -> RingMark:
        """How it is now, for `restore`; to be taken off `marks` when it is not needed any more."""
        mark = RingMark(self)
        self.marks.append(mark)
        return mark

    def restore(self, mark: RingMark) -> None:
        """The ring as it was when it was marked."""
        for part, before in reversed(mark.overwritten):
            part.copy_(before)
        self.buffers = dict(mark.buffers)
        self.capacity, self.start, self.length = mark.capacity, mark.start, mark.length

    def _count(self, chunks: Chunks) -> int:
        """How many chunks these are."""
        name = next(iter(self.buffers))
        return chunks[name].shape[self.fields[name].axis]

    def _ranges(self, first: int, count: int) -> list[tuple[int, int]]:
        """At most two ranges of positions that hold indices first to first + count."""
        if count <= 0:
            return [(0, 0)]
        low = (self.start + first) % self.capacity
        high = low + count
        return [(low, high)] if high <= self.capacity else [(low, self.capacity), (0, high - self.capacity)]
