"""One memory row: its chunks, its budget, what to evict, and how to fetch entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltm.bank.chunks import NO_DOCUMENT, ChunkLayout
from ltm.bank.config import BankConfig
from ltm.bank.events import RowEvents
from ltm.bank.eviction import EVICTIONS, Usage, leaving_order
from ltm.bank.held import Changes, Held
from ltm.bank.mapped import MappedEntries
from ltm.bank.results import ChunkSource
from ltm.bank.ring import Ring
from ltm.bank.search.index import create_index
from ltm.bank.storage import FLOATS, SCALE
from ltm.bank.stored_tensor import Chunks
from ltm.errors import ConfigError

FIRST_CHUNKS = 16
"""Room that the first write makes; from there it grows by a quarter at a time."""


@dataclass(frozen=True)
class Budget:
    """What a row may hold: so many tokens, and so many chunks and events (from a budget in bytes); None: no limit."""

    tokens: int | None
    chunks: int | None
    chunk_size: int
    events: int | None = None

    def capacity_for(self, needed: int, capacity: int) -> int:
        """Room to make for `needed` chunks: a quarter more than now, but not beyond the budget unless needed.

        A token budget is left behind where many chunks are short; then what is needed and an eighth.
        """
        grown = max(needed, capacity + capacity // 4, FIRST_CHUNKS)
        if self.tokens is not None:
            full = -(-self.tokens // self.chunk_size)
            grown = min(grown, full) if needed <= full else needed + needed // 8
        return grown if self.chunks is None else min(grown, self.chunks)


def budget_of(config: BankConfig, layout: ChunkLayout) -> Budget:
    """The budget of each row of a bank. Raises ConfigError where not one chunk fits."""
    chunks = events = None
    if config.memory_bytes is not None:
        share = layout.bytes_per_event / config.event_tokens  # of an event, for each of its tokens
        chunks = int((config.memory_bytes - layout.bytes_per_event) / (layout.bytes_per_chunk + share))
        events = chunks // config.event_tokens + 1
        if chunks < 1:
            least = layout.bytes_per_chunk + layout.bytes_per_event
            raise ConfigError(
                f"memory_bytes={config.memory_bytes} holds no chunk; one takes {least} bytes in this bank"
            )
    return Budget(config.memory_size, chunks, config.chunk_size, events)


class Row:
    """The past of one row, in order of writing: a queue of chunks within a budget.

    index_name: how `search` finds chunks; evict: which leave first, a name in `EVICTIONS`. `sharers` counts the banks
    (and places in a bank) that hold this row; one that wants to write while others hold it takes a copy first
    (`Bank.select`).
    """

    def __init__(self, layout: ChunkLayout, budget: Budget, index_name: str, evict: str = "oldest"):
        self.layout, self.budget, self.index_name, self.evict_name = layout, budget, index_name, evict
        self.ring = Ring(layout.fields)
        self.events = RowEvents(layout, budget.events) if layout.event_fields else None
        self.mapped: MappedEntries | None = None
        self.num_tokens = 0
        self.next_number = 0  # the slot of the next chunk written
        self.num_dropped = 0  # oldest chunks dropped since the index was made
        self.sharers = 1
        self.index = create_index(index_name)
        self.usage = None if evict == "oldest" else Usage.nothing()  # kept only where eviction asks for it
        self.changes = Changes()  # of what is held of documents
        self._held: Held | None = None  # counted when it is first asked for

    # what is there

    @property
    def num_chunks(self) -> int:
        return self.ring.length

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this row, room to grow included; what is mapped from files is not counted."""
        return self.ring.nbytes + (0 if self.events is None else self.events.nbytes)

    @property
    def first_number(self) -> int:
        """Slot of the oldest chunk; that of the next one where the row is empty."""
        return int(self.ring.ordered("numbers", 0, 1)[0]) if self.num_chunks else self.next_number

    def numbers(self) -> Tensor:
        """The slots of all chunks, ascending, on the host."""
        return self.ring.ordered("numbers").cpu()

    def places_below(self, slot: int) -> int:
        """How many chunks have a slot below this one; the numbers are not copied."""
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
    def held(self) -> Held:
        """Tokens and chunks of each document."""
        if self._held is None:
            self._held = Held(self.ring.ordered("documents"), self.ring.ordered("counts"))
        return self._held

    def recount(self) -> None:
        """Count what is held of documents anew when it is next asked for."""
        self._held = None

    def locate(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Places in order (0 the oldest) of chunks by their slots, and which of the slots are (still) there."""
        numbers = self.ring.ordered("numbers")
        if not numbers.numel():
            return torch.zeros_like(slots), torch.zeros_like(slots, dtype=torch.bool)
        order = torch.searchsorted(numbers, slots.to(numbers.device)).clamp_(max=numbers.numel() - 1)
        present = numbers[order] == slots
        return order.masked_fill_(~present, 0), present

    # writing and removing

    def append(self, chunks: Chunks, num_tokens: int, events: Chunks | None = None) -> None:
        """Add chunks of `num_tokens` tokens at the end and evict the oldest that do not fit the budget; events: those
        that begin in these chunks where the row keeps any, with `starts` that count from the first of them."""
        self._load()
        added = chunks["counts"].shape[0]
        start, end = self.next_number, self.next_number + added
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
        self.next_number = end
        if self.events is not None and events is not None:
            self.events.append({**events, "starts": events["starts"] + start})
            self.events.drop_before(self.first_number)

    def _make_room(self, counts: Tensor, num_tokens: int) -> None:
        """Let chunks go for those that come (`counts`, in all num_tokens tokens), as the policy says."""
        if self.usage is None:
            self.evict(min(self._surplus(counts, num_tokens), self.num_chunks))
            return
        order = leaving_order(EVICTIONS[self.evict_name], self.usage)
        surplus = min(self._surplus(counts, num_tokens, order), self.num_chunks)
        if surplus == self.num_chunks:
            self.evict(surplus)
        elif surplus:
            self.keep(order[surplus:].sort().values)

    def evict(self, count: int) -> None:
        """Drop the oldest chunks."""
        if count:
            if self.usage is not None:
                self.usage = self.usage.kept(torch.arange(count, self.num_chunks))
            self._load()
            counts = self.ring.ordered("counts", 0, count)
            self.changes.note(self.held.remove(self.ring.ordered("documents", 0, count), counts))
            self.num_tokens -= int(counts.sum())
            self.ring.drop(count)
            self.num_dropped += count
            if self.events is not None:
                self.events.drop_before(self.first_number)

    def delete_document(self, document: int) -> None:
        """Remove a document's chunks; the others keep their slots."""
        keep = self.ring.ordered("documents") != document
        if not bool(keep.all()):
            self.keep(keep.nonzero().squeeze(1))

    def keep(self, places: Tensor) -> None:
        """Remove all chunks but those at these places in order (int64, ascending); they keep their slots."""
        self._load()
        before = dict(self.held.counts)
        self.ring.keep(places)
        self._held = None
        after = self.held.counts
        self.changes.note(document for document in before if after.get(document) != before[document])
        if self.usage is not None:
            self.usage = self.usage.kept(places)
        self.num_tokens = int(self.ring.ordered("counts").sum())
        self.index, self.num_dropped = self.index.kept(places, self.num_dropped), 0
        if self.events is not None:
            self.events.keep(self.numbers())

    def restore(self, chunks: Chunks, blocks: Sequence[Chunks], next_number: int) -> None:
        """Fill an empty row: `chunks` without the fields that stay in the files which `blocks` map, or with all and
        no blocks; with the events' fields where the row keeps events."""
        if blocks:
            self.mapped = MappedEntries(blocks, {name: self.layout.fields[name].axis for name in blocks[0]})
            for name in self.mapped.names:
                del self.ring.buffers[name]
        self.ring.reserve(chunks["counts"].shape[0])
        self.ring.append(chunks)
        if self.usage is not None:
            self.usage = self.usage.wrote(chunks["counts"].shape[0])
        self.num_tokens = int(chunks["counts"].sum())
        self.next_number = next_number
        if self.events is not None:
            self.events.append({name: chunks[name] for name in self.events.ring.buffers})
            self.events.drop_before(self.first_number)

    def successor(self) -> Row:
        """An empty row whose slots go on where this one's end."""
        other = Row(self.layout, self.budget, self.index_name, self.evict_name)
        other.next_number = self.next_number
        other.changes = self.changes.copy()
        other.changes.note(self.held.counts)
        return other

    def copy(self) -> Row:
        """The same chunks in memory of their own; files that are mapped are shared."""
        other = Row(self.layout, self.budget, self.index_name, self.evict_name)
        other.next_number, other.changes = self.next_number, self.changes.copy()
        other.ring = self.ring.copy()
        other.events = None if self.events is None else self.events.copy()
        other.mapped, other.num_tokens, other.usage = self.mapped, self.num_tokens, self.usage
        return other

    def _surplus(self, counts: Tensor, num_tokens: int, order: Tensor | None = None) -> int:
        """How many chunks, those that come (`counts`) last, are over the budget; order: places in which those that are
        there leave, None: the oldest first."""
        surplus = 0
        if self.budget.chunks is not None:
            surplus = max(self.num_chunks + counts.shape[0] - self.budget.chunks, 0)
        if self.budget.tokens is not None and self.num_tokens + num_tokens > self.budget.tokens:
            excess = self.num_tokens + num_tokens - self.budget.tokens
            if order is None:
                there = self.ring.ordered("counts", 0, min(excess, self.num_chunks))
            else:
                there = self.ring.ordered("counts")[order.to(counts.device)]
            enough = (
                torch.cat((there, counts[:excess])).cumsum(0) >= excess
            )  # every chunk has a token, so `excess` chunks suffice
            surplus = max(surplus, int(enough.int().argmax()) + 1)
        return surplus

    def _load(self) -> None:
        """Bring what is mapped from files into memory: it is about to change."""
        if self.mapped is not None:
            for name in self.mapped.names:
                self.ring.buffers[name] = self.layout.fields[name].empty(self.num_chunks)
                self.ring.buffers[name].copy_(self.mapped.ordered(name, 0, self.num_chunks))
            self.mapped = None

    # reading

    def search(self, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Scores and places in order of the best chunks [kv_heads, queries, min(top_k, chunks)], best first.

        queries: [kv_heads, queries, head_dim].
        """
        asked = queries.to(self.search_dtype)
        scores, order = self.index.search(self, layer, asked, min(top_k, self.num_chunks))
        if self.usage is not None:
            self.usage = self.usage.found(order, queries.shape[1])
        return scores.to(self.layout.dtype), order

    def search_joint(self, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """As `search`, with scores summed over heads: one ranking [queries, top_k]."""
        asked = queries.to(self.search_dtype)
        scores, order = self.index.search_joint(self, layer, asked, min(top_k, self.num_chunks))
        return scores.to(self.layout.dtype), order

    @property
    def has_float_search_keys(self) -> bool:
        """Whether search keys lie in the ring's buffers as floats: not as codes, not in files, and not derived."""
        return "search_keys" in self.ring.buffers and self.layout.codecs["search_keys"].bits is None

    @property
    def search_dtype(self) -> torch.dtype:
        """What queries and search keys are multiplied in."""
        codec = self.layout.codecs.get("search_keys")
        return self.layout.dtype if codec is None or codec.bits is not None else FLOATS[codec.storage]

    def field(self, name: str, first: int, count: int) -> Tensor:
        """A stored field of `count` chunks from the first-th oldest on, wherever it lies."""
        here = name in self.ring.buffers
        return self.ring.ordered(name, first, count) if here else self._mapped().ordered(name, first, count)

    def gather(self, layer: int, head: int, order: Tensor, into: Mapping[str, Tensor]) -> None:
        """Entries ("keys", "values") of the chunks at these places in order [n], each [n, chunk_size * head_dim].

        Only these are decoded where entries are stored in codes."""
        for name, out in into.items():
            codec = self.layout.codecs[name]
            if codec.bits is None and FLOATS[codec.storage] == out.dtype:
                self._take(name, layer, head, order, out)
            elif codec.bits is None:
                out.copy_(self._take(name, layer, head, order))
            else:
                stored = (self._take(part, layer, head, order) for part in (name, name + SCALE))
                center = self.layout.center(name)
                decoded = codec.decode_rows(*stored)
                out.copy_(codec.restore(decoded, None if center is None else center[layer, head]).flatten(1))

    def _take(self, name: str, layer: int, head: int, order: Tensor, out: Tensor | None = None) -> Tensor:
        """A stored field of one layer and head at these places in order, [n, all the rest]."""
        if name not in self.ring.buffers:
            return self._mapped().take(name, layer, head, order, out)
        stored = self.ring.buffers[name][layer, head]
        return torch.index_select(stored.view(len(stored), -1), 0, self.ring.position(order), out=out)

    def _mapped(self) -> MappedEntries:
        assert self.mapped is not None
        return self.mapped

    def entries(self, layer: int, places: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, n, head_dim] of all heads at places in order: int64 [n], or a range (a view where
        that is possible). Of rows whose chunks are single tokens."""
        return self._entries("keys", layer, places), self._entries("values", layer, places)

    def entry_keys(self, layer: int, places: Tensor | slice) -> Tensor:
        """The keys of `entries` alone."""
        return self._entries("keys", layer, places)

    def _entries(self, name: str, layer: int, places: Tensor | slice) -> Tensor:
        """ "keys" or "values" [kv_heads, n, head_dim]; only these are decoded where they are stored in codes."""
        codec, center = self.layout.codecs[name], self.layout.center(name)
        if codec.bits is None:
            floats = self._pick(name, layer, places)  # [kv_heads, n, 1, head_dim]
        else:
            decoded = codec.decode(*(self._pick(part, layer, places) for part in (name, name + SCALE)))
            floats = codec.restore(decoded, None if center is None else center[layer][:, None, None])
        return floats.flatten(1, 2).to(self.layout.dtype)

    def _pick(self, name: str, layer: int, places: Tensor | slice) -> Tensor:
        """A stored field of one layer and all heads at places in order, [kv_heads, n, all the rest]."""
        if name in self.ring.buffers:
            if isinstance(places, slice):
                return self.ring.ordered(name, places.start, places.stop - places.start)[layer]
            return self.ring.buffers[name][layer].index_select(1, self.ring.position(places))
        return self._mapped().pick(name, layer, places)

    def following(self, order: Tensor) -> Tensor:
        """The token that came after each token of these chunks, int64 [..., chunk_size]; -1: not known.

        order: any shape. A chunk goes on in the next one if that was written right after it, to the same document.
        """
        order = order.cpu()
        token_ids = self.at("token_ids", order).long()
        place, after = order, (order + 1).clamp(max=self.num_chunks - 1)
        numbers, documents = self.ring.buffers["numbers"].cpu(), self.ring.buffers["documents"]
        place, behind = self.ring.position(place), self.ring.position(after)
        linked = (numbers[behind] == numbers[place] + 1) & (documents[behind] == documents[place])
        first = self.at("token_ids", after)[..., :1].long().where(linked[..., None], torch.tensor(-1))
        counts = self.ring.buffers["counts"].cpu()[place][..., None]
        index = torch.arange(self.layout.chunk_size)
        shifted = torch.cat((token_ids[..., 1:], first), dim=-1)
        ends = torch.where(index == counts - 1, first, shifted)
        return ends.where(index < counts, torch.tensor(-1))

    def agreeing(self, order: Tensor, recent: Tensor) -> Tensor:
        """How many tokens, each token of these chunks and those before it, equal `recent`: int64 [queries, top_k,
        chunk_size].

        order: [queries, top_k]; recent: int64 [queries, length], the latest token first, -1: none. Counting goes back
        through chunks that were written one right after the other to the same document; one that is not full ends it.
        """
        size, length = self.layout.chunk_size, recent.shape[1]
        back = torch.arange(1 - (1 - length) // size, device=order.device)  # the chunk itself, and enough before it
        before = order[..., None] - back  # [queries, top_k, chunks]
        places = self.ring.position(before.clamp(min=0))
        numbers, documents, counts = (self.ring.buffers[name][places] for name in ("numbers", "documents", "counts"))
        linked = (before >= 0) & (numbers == numbers[..., :1] - back) & (documents == documents[..., :1])
        linked &= (counts == size) | (back == 0)
        linked = linked.int().cumprod(dim=-1).bool()
        token_ids = self.ring.buffers["token_ids"][places].masked_fill(~linked[..., None], -2)
        latest_first = token_ids.flip(-1).flatten(-2)  # [queries, top_k, chunks * chunk_size]
        pasts = latest_first.unfold(-1, length, 1)[..., :size, :].flip(-2)  # [queries, top_k, chunk_size, length]
        equal = pasts == recent[:, None, None]
        return equal.int().cumprod(dim=-1).sum(dim=-1)

    def latest(self, count: int) -> Tensor:
        """The last tokens held, at most `count`, int64 [tokens]."""
        chunks = min(count, self.num_chunks)  # every chunk has a token
        first = self.num_chunks - chunks
        token_ids, counts = (self.ring.ordered(name, first, chunks) for name in ("token_ids", "counts"))
        held = torch.arange(self.layout.chunk_size, device=token_ids.device) < counts[:, None]
        return token_ids[held][-count:].long()

    def at(self, name: str, order: Tensor) -> Tensor:
        """A field without leading axes (numbers, counts, ...) of the chunks at these places in order, any shape."""
        return self.ring.buffers[name][self.ring.position(order)]

    def source(self, slot: int, order: int | None) -> ChunkSource:
        """Where the chunk at a place in order came from; None: it is not there any more."""
        if order is None:
            return ChunkSource(slot, None, 0, 0, [])
        place = torch.tensor(order)
        count, document = int(self.at("counts", place)), int(self.at("documents", place))
        start, end = self.at("spans", place).clamp(min=0).tolist()
        token_ids = self.at("token_ids", place)[:count].tolist()
        return ChunkSource(slot, None if document == NO_DOCUMENT else document, start, end, token_ids)
