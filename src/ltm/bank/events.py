"""Events of a row: runs of its tokens that are found together, by representative keys that came with them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ltm.bank.chunks import ChunkLayout
from ltm.bank.ring import Ring
from ltm.bank.search.exact import row_product
from ltm.bank.stored_tensor import Chunks

FIRST_EVENTS = 16
"""Room that the first write makes; from there it grows by a quarter at a time."""
NARROW = 128
"""Products of so many queries with an event, its zeros for other heads' keys included, cost less than a second look at
the keys: all heads then ask in one product with keys as they lie (a third faster in bf16, twice as fast in float32)."""


class EventTable(NamedTuple):
    """Where events lie: first int64 [events], the index of each one's first token (0 the row's oldest), and
    sizes int64 [events], its tokens. On the host."""

    first: Tensor
    sizes: Tensor


class RowEvents:
    """The events of one row in the order of their tokens.

    An event is known by its first token and goes with it. most: events there may be (None: no limit).
    """

    def __init__(self, layout: ChunkLayout, most: int | None):
        self.layout, self.most = layout, most
        self.ring = Ring(layout.event_fields)

    @property
    def count(self) -> int:
        return self.ring.length

    @property
    def nbytes(self) -> int:
        return self.ring.nbytes

    def append(self, events: Chunks) -> None:
        """Add events (fields of `ChunkLayout.event_fields`) at the end; the oldest beyond `most` are evicted."""
        if self.most is not None:
            axes = {name: field.axis for name, field in self.ring.fields.items()}
            new = min(len(events["starts"]), self.most)
            events = {name: t.narrow(axes[name], t.shape[axes[name]] - new, new) for name, t in events.items()}
            self.ring.evict(max(self.count + new - self.most, 0))
        needed = self.count + len(events["starts"])
        if needed > self.ring.capacity:
            grown = max(needed, self.ring.capacity + self.ring.capacity // 4, FIRST_EVENTS)
            self.ring.reserve(grown if self.most is None else min(grown, self.most))
        self.ring.append(events)

    def delete_before(self, slot: int) -> None:
        """Delete events whose first token has a slot below this one."""
        below = int(torch.searchsorted(self.ring.ordered("starts"), slot))
        if below:
            self.ring.evict(below)

    def keep(self, slots: Tensor) -> None:
        """Delete all events but those whose first token is among these slots."""
        kept = torch.isin(self.ring.ordered("starts"), slots)
        if not bool(kept.all()):
            self.ring.keep(kept.nonzero().squeeze(1))

    def lie_within(self, slots: Tensor) -> bool:
        """Whether every token of every event is among those with these slots (ascending, on the host)."""
        starts, sizes = self.ring.ordered("starts"), self.ring.ordered("sizes").to(torch.int64)
        low, high = torch.searchsorted(slots, starts), torch.searchsorted(slots, starts + sizes)
        return bool((high - low == sizes).all())

    def table(self, slots: Tensor) -> EventTable:
        """Where the events lie; slots: of the row's tokens, ascending, on the host."""
        return EventTable(
            torch.searchsorted(slots, self.ring.ordered("starts")), self.ring.ordered("sizes").to(torch.int64)
        )

    def scores(self, layer: int, queries: Tensor) -> Tensor:
        """Inner products with all representative keys, [queries, heads, events], of queries [queries, heads, head_dim];
        heads a multiple of event_heads, consecutive ones share one."""
        count, heads, width = queries.shape
        kept = self.layout.event_heads or 1
        by_head = queries.transpose(0, 1).reshape(kept, -1, width)  # [event_heads, group * queries, head_dim]
        narrow = kept * heads * count <= NARROW
        joined = torch.block_diag(*by_head.unbind()) if narrow else by_head
        products = []
        for part in self.ring.parts("event_keys"):
            if narrow:
                found = row_product(joined.to(part), part[layer])  # [heads * queries, events]
            else:
                keys = part[layer].unflatten(1, (kept, width)).transpose(0, 1)  # [event_heads, events, head_dim]
                # keys at the left: as the right side of a bf16 product such a view is copied first, four times the time
                found = torch.matmul(keys, by_head.to(keys).transpose(1, 2)).transpose(1, 2)
            products.append(found.reshape(heads, count, -1).transpose(0, 1))
        return products[0] if len(products) == 1 else torch.cat(products, dim=2)

    def chunks(self, first: int, last: int) -> Chunks:
        """All fields of the events whose first tokens have slots first to last, on the host."""
        starts = self.ring.ordered("starts")
        low, high = (int(torch.searchsorted(starts, slot)) for slot in (first, last + 1))
        return {name: self.ring.ordered(name, low, high - low).cpu().contiguous() for name in self.ring.buffers}

    def copy(self) -> RowEvents:
        """The same events in memory of their own."""
        other = RowEvents(self.layout, self.most)
        other.ring = self.ring.copy()
        return other
