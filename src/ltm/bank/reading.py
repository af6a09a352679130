"""What is read of a bank: chunks that a query finds, their entries, what followed them, where they came from."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ltm.bank.checks import check_layer, check_search, row_numbers
from ltm.bank.contents import BankContents
from ltm.bank.events import EventTable, RowEvents
from ltm.bank.following import latest_tokens
from ltm.bank.results import ChunkSource, Hits, Neighbours, Retrieved
from ltm.bank.retrieval import (
    RowReaders,
    find_slots,
    gather_groups,
    gather_keys,
    group_rows,
    name_slots,
    search_groups,
    search_jointly,
)
from ltm.bank.stored_tensor import Chunks
from ltm.errors import BankError
from ltm.lasting import lasting_tensors
from ltm.memory import Rows


class ReadableBank(BankContents):
    """A bank in memory, without files."""

    def entries(self, row: int, indices: Tensor | slice, layer: int = 0) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, n, head_dim] of a row's tokens at indices (0 the oldest; int64 [n], or a range,
        which is not copied where it lies together). For banks whose chunks are single tokens; never write to them."""
        self._check_entries(layer)
        return self.rows[row].entries(layer, indices)

    def entry_keys(self, row: int, indices: Tensor | slice, layer: int = 0) -> Tensor:
        """The keys of `entries` alone."""
        self._check_entries(layer)
        return self.rows[row].entry_keys(layer, indices)

    def _check_entries(self, layer: int) -> None:
        if self.config.chunk_size != 1:
            raise BankError(f"entries are single tokens, but this bank has chunk_size={self.config.chunk_size}")
        check_layer(self.layout, layer)

    def event_table(self, row: int) -> EventTable:
        """Where a row's events lie. Raises BankError where the bank keeps none."""
        return self._events_of(row).table(self.rows[row].slots())

    def score_events(self, row: int, queries: Tensor, layer: int = 0) -> Tensor:
        """Inner products of queries [queries, heads, head_dim] with the representative keys of a row's events:
        [queries, heads, events]; heads a multiple of event_heads. Raises BankError where the bank keeps none."""
        return self._events_of(row).scores(layer, queries)

    def _events_of(self, row: int) -> RowEvents:
        events = self.rows[row].events
        if events is None:
            raise BankError("this bank keeps no events; make one with BankConfig(event_heads=...)")
        return events

    @lasting_tensors()
    @torch.no_grad()
    def search(self, queries: Tensor, top_k: int, *, rows: Rows | None = None, layer: int = 0) -> Hits:
        """The chunks whose mean key has the largest inner product with each query.

        queries: [batch, heads, tokens, head_dim], without positions; heads a multiple of the bank's kv heads, query
        head h searches kv head h // (heads / kv_heads). top_k: chunks for each query token and head; more finds more
        and costs more to fetch. rows: the memory row of each batch row. layer: place in `layers` (0: the first kept).
        Exact up to the rounding of the scores in the bank's dtype. Nothing is differentiated.
        """
        check_search(self.layout, queries, top_k, layer)
        groups = self._groups(rows, queries.shape[0])
        return name_slots(groups, search_groups(groups, queries, top_k, layer, self.layout))

    @torch.no_grad()
    def gather(self, hits: Hits, *, rows: Rows | None = None, layer: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """All tokens of the chunks found: keys and values [batch, heads, tokens, top_k * chunk_size, head_dim], and
        mask [batch, heads, tokens, top_k * chunk_size], False where a hit is not valid, has left the memory since, or
        its chunk is short. What is masked is finite. Takes hits of any earlier search of these rows.
        """
        check_layer(self.layout, layer)
        groups = self._groups(rows, hits.slots.shape[0])
        return gather_groups(groups, find_slots(groups, hits), layer, self.layout)

    @lasting_tensors()
    @torch.no_grad()
    def retrieve(self, queries: Tensor, top_k: int, rows: Rows | None = None, layer: int = 0) -> Retrieved:
        """`search` and `gather` in one.

        >>> found = bank.retrieve(queries, top_k=16)  # doctest: +SKIP
        >>> found.keys.shape  # doctest: +SKIP
        torch.Size([1, 9, 1024, 64, 64])
        """
        check_search(self.layout, queries, top_k, layer)
        groups = self._groups(rows, queries.shape[0])
        found = search_groups(groups, queries, top_k, layer, self.layout)
        return Retrieved(*gather_groups(groups, found, layer, self.layout), name_slots(groups, found))

    @lasting_tensors()
    @torch.no_grad()
    def neighbours(
        self,
        queries: Tensor,
        top_k: int,
        rows: Rows | None = None,
        layer: int = 0,
        recent: Tensor | None = None,
    ) -> Neighbours:
        """The chunks nearest to each query by the inner products summed over kv heads, and what followed their tokens.

        queries: [batch, kv_heads, tokens, head_dim], one query for each kv head; recent: int64 [batch, tokens, length],
        the present token of each query and those before it, the latest first, -1 where there is none; the rest as in
        `search`.

        >>> bank.neighbours(queries, top_k=16).next_ids.shape  # doctest: +SKIP
        torch.Size([1, 1024, 64])
        """
        check_search(self.layout, queries, top_k, layer)
        if queries.shape[1] != self.num_kv_heads:
            raise BankError(
                f"queries have {queries.shape[1]} heads; neighbours takes one a kv head: {self.num_kv_heads}"
            )
        groups = self._groups(rows, queries.shape[0])
        found = search_jointly(groups, queries, top_k, layer, self.layout)
        return Neighbours(*gather_keys(groups, found, layer, self.layout, recent), name_slots(groups, found))

    def latest_tokens(self, row: int, count: int) -> Tensor:
        """The token ids that a row was given last and still holds, at most `count` (1 or more), int64 [tokens]."""
        return latest_tokens(self.rows[row], count)

    def sources(self, slots: Iterable[int] | Tensor, row: int = 0) -> list[ChunkSource]:
        """Where chunks of a row came from, one source for each slot. Raises BankError for slots never written."""
        (number,) = row_numbers([row], 1, self.num_rows)
        held = self.rows[number]
        wanted = torch.as_tensor(slots if isinstance(slots, Tensor) else list(slots), dtype=torch.int64).flatten()
        for slot in wanted.tolist():
            if not 0 <= slot < held.next_slot:
                raise BankError(f"slot {slot} was never written to row {row}; its slots are below {held.next_slot}")
        indices, present = held.locate(wanted.to(self.device))
        found = zip(wanted.tolist(), indices.tolist(), present.tolist(), strict=True)
        return [held.source(slot, index if there else None) for slot, index, there in found]

    def chunks(self, row: int = 0) -> Chunks:
        """All that a row holds, in order of writing and on the host: the fields of `ChunkLayout`, chunks on their
        axis."""
        (number,) = row_numbers([row], 1, self.num_rows)
        return self.rows[number].chunks(0, self.rows[number].num_chunks)

    def passage(self, source: ChunkSource) -> str | None:
        """The text that a chunk was made from, as far as it is known."""
        if source.document is None or source.document not in self.document_registry or source.end <= source.start:
            return None
        text = self.document_text(source.document)
        return None if text is None else text[source.start : source.end]

    def _groups(self, rows: Rows | None, batch: int) -> list[RowReaders]:
        return group_rows(self.rows, row_numbers(rows, batch, self.num_rows))
