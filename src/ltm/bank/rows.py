"""One memory row: its chunks in order of writing, within a budget; what is evicted; how it is searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ltm.bank.budget import RowBudget
from ltm.bank.chunks import NO_DOCUMENT, ChunkLayout
from ltm.bank.document_counts import Changes, DocumentCounts
from ltm.bank.events import RowEvents
from ltm.bank.eviction import EVICTIONS, ChunkUsage, eviction_order
from ltm.bank.results import ChunkSource
from ltm.bank.search.index import SearchIndex
from ltm.bank.stored_chunks import StoredChunks
from ltm.bank.stored_keys import StoredSearchKeys
from ltm.bank.stored_tensor import Chunks


class MemoryRow(StoredChunks):
    """The past of one row, in order of writing: a queue of chunks within a budget.

    new_index: makes what finds its chunks, as in `INDEXES`; evict: which are evicted first, a name in `EVICTIONS`.
    `sharers` counts the banks (and rows of a bank) that hold this row; one that wants to write while others hold it
    takes a copy first (`Bank.select`).
    """

    def __init__(
        self, layout: ChunkLayout, budget: RowBudget, new_index: Callable[[], SearchIndex], evict: str = "oldest"
    ):
        super().__init__(layout)
        self.budget, self.new_index, self.eviction = budget, new_index, evict
        self.events = RowEvents(layout, budget.events) if layout.event_fields else None
        self.num_tokens = 0
        self.next_slot = 0  # of the next chunk written
        self.sharers = 1
        self.usage = None if evict == "oldest" else ChunkUsage.nothing()  # kept only where eviction asks for it
        self.changes = Changes()  # of what is held of documents
        self._held: DocumentCounts | None = None  # counted when it is first asked for
        self.search_index = new_index()
        self.num_evicted = 0  # oldest chunks evicted since the search index was made

    # what is there

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this row, room to grow included; what is mapped from files is not counted."""
        return self.ring.nbytes + (0 if self.events is None else self.events.nbytes)

    @property
    def first_slot(self) -> int:
        """Slot of the oldest chunk; that of the next one where the row is empty."""
        return int(self.ring.ordered("numbers", 0, 1)[0]) if self.num_chunks else self.next_slot

    def slots(self) -> Tensor:
        """The slots of all chunks, ascending, on the host."""
        return self.ring.ordered("numbers").cpu()

    def chunks_below(self, slot: int) -> int:
        """How many chunks have a slot below this one; the slots are not copied."""
        return sum(int(torch.searchsorted(part, slot)) for part in self.ring.parts("numbers"))

    def chunks(self, first: int, count: int) -> Chunks:
        """All fields of `count` chunks from the first-th oldest on, and of the events that begin in them, on the
        host."""
        found = {name: self.ring.ordered(name, first, count) for name in self.ring.buffers}
        if self.mapped is not None:
            found |= {name: self.mapped.ordered(name, first, count).clone() for name in self.mapped.names}
        if self.events is not None:
            slots = found["numbers"]
            found |= self.events.chunks(int(slots[0]), int(slots[-1])) if count else self.events.chunks(0, -1)
        return {name: tensor.cpu().contiguous() for name, tensor in found.items()}

    @property
    def held(self) -> DocumentCounts:
        """Tokens and chunks of each document."""
        if self._held is None:
            self._held = DocumentCounts(self.ring.ordered("documents"), self.ring.ordered("counts"))
        return self._held

    def recount(self) -> None:
        """Count what is held of documents anew when it is next asked for."""
        self._held = None

    def locate(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (0 the oldest) of chunks by their slots, and which of the slots are (still) there."""
        held = self.ring.ordered("numbers")
        if not held.numel():
            return torch.zeros_like(slots), torch.zeros_like(slots, dtype=torch.bool)
        indices = torch.searchsorted(held, slots.to(held.device)).clamp_(max=held.numel() - 1)
        present = held[indices] == slots
        return indices.masked_fill_(~present, 0), present

    # writing and removing

    def append(self, chunks: Chunks, num_tokens: int, events: Chunks | None = None) -> None:
        """Add chunks of `num_tokens` tokens at the end and evict the oldest that do not fit the budget; events: those
        that begin in these chunks where the row keeps any, with `starts` that count from the first of them."""
        self.bring_into_memory()
        added = chunks["counts"].shape[0]
        start, end = self.next_slot, self.next_slot + added
        chunks = {**chunks, "numbers": torch.arange(start, end, device=self.layout.device)}
        self._make_room(chunks["counts"], num_tokens)
        new = self._surplus(chunks["counts"], num_tokens)  # more came than the whole row may hold
        if new:
            num_tokens -= int(chunks["counts"][:new].sum())
            axes = self.ring.fields
            chunks = {name: t.narrow(axes[name].axis, new, added - new) for name, t in chunks.items()}
        needed = self.num_chunks + added - new
        if needed > self.ring.capacity:
            self.ring.reserve(self.budget.capacity_for(needed, self.ring.capacity))
        held = self.held  # counted before these are there
        self.ring.append(chunks)
        if self.usage is not None:
            self.usage = self.usage.wrote(added - new)
        self.changes.note(held.add(chunks["documents"], chunks["counts"]))
        self.num_tokens += num_tokens
        self.next_slot = end
        if self.events is not None and events is not None:
            self.events.append({**events, "starts": events["starts"] + start})
            self.events.delete_before(self.first_slot)

    def _make_room(self, counts: Tensor, num_tokens: int) -> None:
        """Evict chunks for those that come (`counts`, in all num_tokens tokens), as the policy says."""
        if self.usage is None:
            self.evict(min(self._surplus(counts, num_tokens), self.num_chunks))
            return
        first_out = eviction_order(EVICTIONS[self.eviction], self.usage)
        surplus = min(self._surplus(counts, num_tokens, first_out), self.num_chunks)
        if surplus == self.num_chunks:
            self.evict(surplus)
        elif surplus:
            self.keep(first_out[surplus:].sort().values)

    def evict(self, count: int) -> None:
        """Evict the oldest chunks."""
        if count:
            if self.usage is not None:
                self.usage = self.usage.kept(torch.arange(count, self.num_chunks))
            self.bring_into_memory()
            counts = self.ring.ordered("counts", 0, count)
            self.changes.note(self.held.remove(self.ring.ordered("documents", 0, count), counts))
            self.num_tokens -= int(counts.sum())
            self.ring.evict(count)
            self.num_evicted += count
            if self.events is not None:
                self.events.delete_before(self.first_slot)

    def delete_document(self, document: int) -> None:
        """Remove a document's chunks; the others keep their slots."""
        keep = self.ring.ordered("documents") != document
        if not bool(keep.all()):
            self.keep(keep.nonzero().squeeze(1))

    def keep(self, indices: Tensor) -> None:
        """Remove all chunks but those at these indices (int64, ascending); they keep their slots."""
        self.bring_into_memory()
        before = dict(self.held.counts)
        self.ring.keep(indices)
        self._held = None
        after = self.held.counts
        self.changes.note(document for document in before if after.get(document) != before[document])
        if self.usage is not None:
            self.usage = self.usage.kept(indices)
        self.num_tokens = int(self.ring.ordered("counts").sum())
        self.search_index, self.num_evicted = self.search_index.kept(indices, self.num_evicted), 0
        if self.events is not None:
            self.events.keep(self.slots())

    def restore(self, chunks: Chunks, blocks: Sequence[Chunks], next_slot: int) -> None:
        """Fill an empty row: `chunks` without the fields that stay in the files which `blocks` map, or with all and
        no blocks; with the events' fields where the row keeps events."""
        if blocks:
            self.map(blocks)
        self.ring.reserve(chunks["counts"].shape[0])
        self.ring.append(chunks)
        if self.usage is not None:
            self.usage = self.usage.wrote(chunks["counts"].shape[0])
        self.num_tokens = int(chunks["counts"].sum())
        self.next_slot = next_slot
        if self.events is not None:
            self.events.append({name: chunks[name] for name in self.events.ring.buffers})
            self.events.delete_before(self.first_slot)

    def successor(self) -> MemoryRow:
        """An empty row whose slots go on where this one's end."""
        other = MemoryRow(self.layout, self.budget, self.new_index, self.eviction)
        other.next_slot = self.next_slot
        other.changes = self.changes.copy()
        other.changes.note(self.held.counts)
        return other

    def copy(self) -> MemoryRow:
        """The same chunks in memory of their own; files that are mapped are shared."""
        other = MemoryRow(self.layout, self.budget, self.new_index, self.eviction)
        other.next_slot, other.changes = self.next_slot, self.changes.copy()
        other.ring = self.ring.copy()
        other.events = None if self.events is None else self.events.copy()
        other.mapped, other.num_tokens, other.usage = self.mapped, self.num_tokens, self.usage
        return other

    def _surplus(self, counts: Tensor, num_tokens: int, first_out: Tensor | None = None) -> int:
        """How many chunks, those that come (`counts`) last, are over the budget; first_out: indices of those that are
        there in the order they are evicted in, None: the oldest first."""
        surplus = 0
        if self.budget.chunks is not None:
            surplus = max(self.num_chunks + counts.shape[0] - self.budget.chunks, 0)
        if self.budget.tokens is not None and self.num_tokens + num_tokens > self.budget.tokens:
            excess = self.num_tokens + num_tokens - self.budget.tokens
            if first_out is None:
                there = self.ring.ordered("counts", 0, min(excess, self.num_chunks))
            else:
                there = self.ring.ordered("counts")[first_out.to(counts.device)]
            # every chunk has a token, so `excess` chunks suffice
            enough = torch.cat((there, counts[:excess])).cumsum(0) >= excess
            surplus = max(surplus, int(enough.int().argmax()) + 1)
        return surplus

    # searching

    def renew_index(self) -> None:
        """A new search index, which knows nothing of the row yet."""
        self.search_index, self.num_evicted = self.new_index(), 0

    @property
    def search_keys(self) -> StoredSearchKeys:
        """What the search index sees of the row."""
        return StoredSearchKeys(self, self.num_evicted)

    def search(self, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Scores and indices of the best chunks [kv_heads, queries, min(top_k, chunks)], best first.

        queries: [kv_heads, queries, head_dim].
        """
        keys = self.search_keys
        scores, indices = self.search_index.search(keys, layer, queries.to(keys.dtype), min(top_k, self.num_chunks))
        if self.usage is not None:
            self.usage = self.usage.found(indices, queries.shape[1])
        return scores.to(self.layout.dtype), indices

    def search_joint(self, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """As `search`, with scores summed over heads: one ranking [queries, top_k]."""
        keys, top_k = self.search_keys, min(top_k, self.num_chunks)
        scores, indices = self.search_index.search_joint(keys, layer, queries.to(keys.dtype), top_k)
        return scores.to(self.layout.dtype), indices

    def source(self, slot: int, index: int | None) -> ChunkSource:
        """Where the chunk at an index came from; None: it is not there any more."""
        if index is None:
            return ChunkSource(slot, None, 0, 0, [])
        at = torch.tensor(index)
        count, document = int(self.at("counts", at)), int(self.at("documents", at))
        start, end = self.at("spans", at).clamp(min=0).tolist()
        token_ids = self.at("token_ids", at)[:count].tolist()
        return ChunkSource(slot, None if document == NO_DOCUMENT else document, start, end, token_ids)
