"""Bank: where the past lives. Position-free keys, values, token ids and their sources; token-to-chunk retrieval."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch import Tensor

from ltm.bank.checks import check_layer, check_layout, check_numbers, check_search, check_write, row_numbers
from ltm.bank.chunks import ChunkLayout, EventCut
from ltm.bank.config import BankConfig
from ltm.bank.disk.absence import find_text
from ltm.bank.disk.loading import load_bank
from ltm.bank.disk.manifest import Manifest, has_bank, read_manifest
from ltm.bank.disk.manifest_entries import MethodEntry
from ltm.bank.disk.merging import merge_banks
from ltm.bank.disk.saved import Saved
from ltm.bank.disk.saving import save_bank
from ltm.bank.documents import Document, Documents
from ltm.bank.events import EventTable, RowEvents
from ltm.bank.held import tick
from ltm.bank.results import ChunkSource, DocumentInfo, Hits, Neighbours, Retrieved
from ltm.bank.retrieval import (
    Group,
    find_slots,
    gather_groups,
    gather_keys,
    group_rows,
    name_slots,
    search_groups,
    search_jointly,
)
from ltm.bank.rows import Row, budget_of
from ltm.bank.stored_tensor import Chunks
from ltm.bank.undo import undone_on_failure
from ltm.errors import BankError, ConfigError
from ltm.lasting import lasting_tensors
from ltm.memory import Memory, Rows

if TYPE_CHECKING:
    from ltm.backbone.fingerprint import Fingerprint


class Bank(Memory):
    """Memory for `num_rows` pasts that never see each other, each within the config's budget.

    num_rows: 0 where the first read decides, by `begin`. num_kv_heads, head_dim: of the backbone; layers: backbone
    layers whose keys and values are kept, () where token ids are all; dtype, device: of keys and values (token ids and
    spans stay on the host). fingerprint: the backbone's identity (or its plain values), stored and checked by `load`;
    backbone: the name it was loaded by. `extra` is a dict of plain JSON values that is saved as well. key_center: about
    the mean of the backbone's keys, float32 [layers, kv_heads, head_dim]; keys that are stored in codes are nearer to
    the truth with it, and it must not depend on what is remembered.
    Raises ConfigError where the byte budget holds no chunk, a size is less than 1, or a storage does not fit.

    >>> bank = Bank(BankConfig(), num_rows=1, num_kv_heads=3, head_dim=64, layers=(23,))  # doctest: +SKIP
    >>> bank.write(keys, values, token_ids)  # doctest: +SKIP
    >>> keys, values, mask, hits = bank.retrieve(queries, top_k=16)  # doctest: +SKIP
    """

    def __init__(
        self,
        config: BankConfig | None = None,
        *,
        num_rows: int,
        num_kv_heads: int,
        head_dim: int,
        layers: Sequence[int] = (0,),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        fingerprint: Fingerprint | Mapping[str, Any] | None = None,
        backbone: str | None = None,
        key_center: Tensor | None = None,
    ):
        sizes = {"num_rows": (num_rows, 0), "num_kv_heads": (num_kv_heads, 1), "head_dim": (head_dim, 1)}
        problems = [f"{name}={size}; use {least} or more" for name, (size, least) in sizes.items() if size < least]
        if problems:
            raise ConfigError(problems)
        self.config = config if config is not None else BankConfig()
        self.layers, self.dtype, self.device = tuple(layers), dtype, torch.device(device)
        self.num_kv_heads, self.head_dim = num_kv_heads, head_dim
        self.backbone, self.extra = backbone, dict[str, Any]()
        self.method: MethodEntry | None = None  # what reads it; `ltm.methods.banks` says so
        self._fingerprint = fingerprint
        self.uuid = uuid4().hex
        self.layout = ChunkLayout(
            len(layers),
            num_kv_heads,
            self.config.chunk_size,
            head_dim,
            dtype,
            self.device,
            self.config.key_storage,
            self.config.value_storage,
            self.config.search_storage,
            key_center,
            self.config.event_heads,
            self.config.offload,
        )
        check_layout(self.layout)
        self.budget = budget_of(self.config, self.layout)
        self.document_registry = Documents()
        self.saved: dict[Path, Saved] = {}  # what this bank last wrote or read, by directory
        self.rows: list[Row] = []
        self.version = 0
        """Another number after every write, deletion, reset and merge: what was worked out from the bank's content is
        good as long as it stays. No two banks of a process that hold different things have the same."""
        self.begin(num_rows)

    @property
    def bank(self) -> Bank:
        """Itself: the bank of this memory."""
        return self

    @property
    def is_empty(self) -> bool:
        return not len(self.document_registry) and not any(row.num_tokens for row in self.rows)

    def begin(self, rows: int) -> None:
        """Make the empty rows of a bank that was made with none; one that has rows stays as it is."""
        if self.rows:
            return
        self.rows = [Row(self.layout, self.budget, self.config.index, self.config.evict) for _ in range(rows)]
        self.version = tick()
        for saved in self.saved.values():
            saved.begin(rows)

    def empty_like(self, **settings: Any) -> Bank:
        """An empty bank of the same backbone and shapes; settings: fields of the config that are to be others."""
        other = type(self)(
            replace(self.config, **settings),
            num_rows=self.num_rows,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            layers=self.layers,
            dtype=self.dtype,
            device=self.device,
            fingerprint=self._fingerprint,
            backbone=self.backbone,
            key_center=self.layout.key_center,
        )
        other.method = self.method
        return other

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The identity of the backbone that made the bank."""
        if isinstance(self._fingerprint, Mapping):
            from ltm.backbone.fingerprint import Fingerprint  # imports transformers: only where it is asked for

            self._fingerprint = Fingerprint.from_dict(dict(self._fingerprint))
        return self._fingerprint

    @property
    def encoder(self) -> str | None:
        """Digest of the trained network beside the backbone whose keys and values these are; None: the backbone's own.

        Kept in `extra`. Banks of two encoders are not merged, and no other encoder's model reads them.
        """
        return self.extra.get("encoder")

    @encoder.setter
    def encoder(self, digest: str | None) -> None:
        if digest is not None:
            self.extra["encoder"] = digest

    @property
    def fingerprint_values(self) -> dict[str, Any] | None:
        """The fingerprint as plain values."""
        known = self._fingerprint
        return None if known is None else dict(known) if isinstance(known, Mapping) else known.to_dict()

    @property
    def vocab_size(self) -> int | None:
        """Of the backbone, where that is known: token ids are below."""
        known = self._fingerprint
        if known is None:
            return None
        return known.get("vocab_size") if isinstance(known, Mapping) else known.vocab_size

    @property
    def saved_revisions(self) -> dict[Path, str]:
        """Of the manifest that this bank last wrote or read, by directory."""
        return {path: saved.revision for path, saved in self.saved.items()}

    # documents

    def add_document(self, name: str, *, row: int = 0, text: str | None = None) -> int:
        """Announce a document that is about to be written to a row; returns its id.

        text: its whole text, kept (and saved) so that a passage can be shown; the spans given to `write` are ranges
        of its characters. The document counts as incomplete until `finish_document`.
        """
        row_numbers([row], 1, self.num_rows)
        return self.document_registry.add(name, row, text)

    def finish_document(self, document: int) -> None:
        """Note that a document was written to its end; one that was not (a killed read) shows as incomplete."""
        self.document_registry.finish(document)

    @property
    def documents(self) -> list[DocumentInfo]:
        """All documents in the order they were added, with what is held of them now."""
        rows = self._unique_rows()
        return [self._info(document, rows) for document in self.document_registry]

    def document_info(self, document: int) -> DocumentInfo:
        """One of them. Raises BankError for an unknown id."""
        return self._info(self.document_registry[document], self._unique_rows())

    def documents_named(self, name: str) -> list[DocumentInfo]:
        """Those of a name, at a cost that does not depend on how many others there are."""
        rows = self._unique_rows()
        return [self._info(document, rows) for document in self.document_registry.named(name)]

    @staticmethod
    def _info(document: Document, rows: Sequence[Row]) -> DocumentInfo:
        held = [row.held.counts.get(document.id, (0, 0)) for row in rows]
        tokens, chunks = (sum(column) for column in zip(*held, strict=True))
        length = len(document.text or "")
        return DocumentInfo(document.id, document.name, document.row, tokens, chunks, length, document.complete)

    def document_text(self, document: int) -> str | None:
        """The text of a document; None if it was added without. Raises BankError for an unknown id."""
        return self.document_registry[document].text

    def passage(self, source: ChunkSource) -> str | None:
        """The text that a chunk was made from, as far as it is known."""
        if source.document is None or source.document not in self.document_registry or source.end <= source.start:
            return None
        text = self.document_text(source.document)
        return None if text is None else text[source.start : source.end]

    @lasting_tensors()
    def delete_document(self, document: int) -> None:
        """Remove a document from memory: entries, search keys, token ids, text; from disk at the next save.

        The slots of other chunks stay as they are.
        """
        self.document_registry[document]
        self.version = tick()
        for number, row in enumerate(self.rows):
            if document in row.held.counts:
                self._writable(number).delete_document(document)
        self.document_registry.remove([document])

    # writing

    @lasting_tensors()
    @torch.no_grad()
    def write(
        self,
        keys: Tensor,
        values: Tensor,
        token_ids: Tensor,
        *,
        mask: Tensor | None = None,
        rows: Rows | None = None,
        documents: Sequence[int | None] | None = None,
        spans: Tensor | None = None,
        events: Sequence[EventCut] | None = None,
    ) -> None:
        """Add tokens to the rows' ends as detached copies, and evict what is over the budget, oldest chunks first.

        keys, values: [batch, kv_heads, tokens, head_dim], or [layers, batch, ...] where the bank keeps several
        layers; keys without positions. token_ids: int64 [batch, tokens]; mask: bool [batch, tokens], False = padding,
        passed over. rows: the memory row of each batch row (None: 0, 1, ...); several may share one, and are then
        written one after another. documents: a document id for each batch row, or None. spans: int64 [batch, tokens,
        2], character ranges in the document's text. events: of each batch row, where the config has event_heads: how
        its tokens (padding left out) fall into events, and the keys these are found by.
        The tokens of one write are cut into chunks of chunk_size; the last may be short and stays so. Raises
        BankError for shapes, rows or documents that do not fit, for numbers that are none (NaN, infinite) and for token
        ids outside the vocabulary; nothing is written then.
        """
        if keys.dim() == 4:
            keys, values = keys[None], values[None]
        check_write(self.layout, keys, values, token_ids, mask, spans, documents)
        numbers = row_numbers(rows, token_ids.shape[0], self.num_rows)
        for document in documents or ():
            if document is not None:
                self.document_registry[document]
        host_mask = None if mask is None or bool(mask.all()) else mask.cpu()
        written = []
        for batch, number in enumerate(numbers):
            chosen = slice(None) if host_mask is None else host_mask[batch].nonzero().squeeze(1)
            ids = token_ids[batch][chosen]
            if not len(ids):
                continue
            cut = None if events is None else events[batch]
            self.layout.check_events(cut, len(ids))
            chunks = self.layout.cut(
                keys[:, batch][:, :, chosen],
                values[:, batch][:, :, chosen],
                ids,
                None if spans is None else spans[batch][chosen],
                None if documents is None else documents[batch],
            )
            found_by = None if cut is None else self.layout.events(cut)
            check_numbers(chunks | (found_by or {}), ids, self.vocab_size)
            written.append((number, chunks, len(ids), found_by))
        for number, chunks, tokens, found_by in written:
            self._writable(number).append(chunks, tokens, found_by)

    def undone_on_failure(self) -> AbstractContextManager[None]:
        """A block after which the bank is as it was before, if it ends by an exception; see `ltm.bank.undo`.

        >>> with bank.undone_on_failure(): bank.write(keys, values, token_ids)  # doctest: +SKIP
        """
        return undone_on_failure(self)

    def reset(self, rows: Rows | None = None) -> None:
        """Forget all rows or some, with the documents of which nothing is left in other rows."""
        numbers = range(self.num_rows) if rows is None else row_numbers(rows, len(rows), self.num_rows)
        for number in set(numbers):
            self.rows[number].sharers -= 1
            self.rows[number] = self.rows[number].successor()
        left = {document for row in self._unique_rows() for document in row.held.counts}
        gone = [d.id for d in self.document_registry if d.row in numbers and d.id not in left]
        self.document_registry.remove(gone)
        self.version = tick()

    def select(self, rows: Rows) -> Bank:
        """A bank whose row i is a copy of this one's row rows[i]: what beams need when they are reordered.

        Rows share memory until one of them is written to. Document ids stay; saved, it is another bank.
        """
        numbers = row_numbers(rows, len(rows), self.num_rows)
        other = copy.copy(self)
        other.uuid, other.extra, other.saved, other.version = uuid4().hex, copy.deepcopy(self.extra), {}, tick()
        other.rows = [self.rows[number] for number in numbers]
        for row in other.rows:
            row.sharers += 1
        held = [row.held.counts for row in other.rows] if len(self.document_registry) else []
        other.document_registry = self.document_registry.select(numbers, held)
        return other

    @lasting_tensors()
    @torch.no_grad()
    def merge(self, other: Bank) -> list[str]:
        """Add all that another bank of the same backbone holds, row by row, after what is here; it stays as it is.

        Its documents get new ids, its chunks new slots; what it stores in another way is decoded and encoded anew.
        Documents that are here already, text for text, are passed over: returns their names. Raises
        BankMismatchError where the two cannot be one, BankError where a name stands for different texts.
        """
        return merge_banks(self, other)

    # reading

    def entries(self, row: int, places: Tensor | slice, layer: int = 0) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, n, head_dim] of a row's tokens at places in order (0 the oldest; int64 [n], or a
        range, which is not copied where it lies together). Banks whose chunks are single tokens; only to be read."""
        self._check_entries(layer)
        return self.rows[row].entries(layer, places)

    def entry_keys(self, row: int, places: Tensor | slice, layer: int = 0) -> Tensor:
        """The keys of `entries` alone."""
        self._check_entries(layer)
        return self.rows[row].entry_keys(layer, places)

    def _check_entries(self, layer: int) -> None:
        if self.config.chunk_size != 1:
            raise BankError(f"entries are single tokens, but this bank has chunk_size={self.config.chunk_size}")
        check_layer(self.layout, layer)

    def event_table(self, row: int) -> EventTable:
        """Where a row's events lie. Raises BankError where the bank keeps none."""
        return self._events_of(row).table(self.rows[row].numbers())

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
        return self.rows[row].latest(count)

    def sources(self, slots: Iterable[int] | Tensor, row: int = 0) -> list[ChunkSource]:
        """Where chunks of a row came from, one source for each slot. Raises BankError for slots never written."""
        (number,) = row_numbers([row], 1, self.num_rows)
        held = self.rows[number]
        wanted = torch.as_tensor(slots if isinstance(slots, Tensor) else list(slots), dtype=torch.int64).flatten()
        for slot in wanted.tolist():
            if not 0 <= slot < held.next_number:
                raise BankError(f"slot {slot} was never written to row {row}; its slots are below {held.next_number}")
        orders, present = held.locate(wanted.to(self.device))
        places = zip(wanted.tolist(), orders.tolist(), present.tolist(), strict=True)
        return [held.source(slot, order if there else None) for slot, order, there in places]

    def chunks(self, row: int = 0) -> Chunks:
        """All that a row holds, in order of writing and on the host: the fields of `ChunkLayout`, chunks on their
        axis."""
        (number,) = row_numbers([row], 1, self.num_rows)
        return self.rows[number].chunks(0, self.rows[number].num_chunks)

    # sizes

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    def num_tokens(self, row: int = 0) -> int:
        """Tokens that a row holds."""
        return self.rows[row_numbers([row], 1, self.num_rows)[0]].num_tokens

    def num_chunks(self, row: int = 0) -> int:
        """Chunks that a row holds."""
        return self.rows[row_numbers([row], 1, self.num_rows)[0]].num_chunks

    @property
    def largest_token_id(self) -> int:
        """Of all rows; -1: they are empty."""
        ids = (row.ring.ordered("token_ids") for row in self._unique_rows() if row.num_chunks)
        return max((int(of_row.max()) for of_row in ids), default=-1)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, room to grow (at most a quarter, never beyond the budget) included.

        Entries that a loaded bank still has in its files are not counted: `mapped_nbytes`.
        """
        return sum(row.nbytes for row in self._unique_rows())

    @property
    def mapped_nbytes(self) -> int:
        """Bytes of keys and values that stay in the files they were loaded from."""
        return sum(row.mapped.nbytes for row in self._unique_rows() if row.mapped is not None)

    # on disk

    def save(self, path: str | Path, *, overwrite: bool = False, compact: bool = False) -> None:
        """Write the bank to a directory; saved there before, only what is new is written, as a new shard.

        Whatever happens on the way (killed, disk full), the directory holds the state of the last save that was
        complete. What was deleted is gone from the disk when this returns; a shard of which a part is evicted stays
        until all of it is, or with compact: every shard is then written anew, few and without anything but what is
        remembered. overwrite: replace another bank, or one that was changed by another process. Raises BankError where
        something else is there, another process writes there, or the disk refuses.
        """
        save_bank(self, Path(path), overwrite, compact)

    @classmethod
    @lasting_tensors()
    def load(
        cls,
        path: str | Path,
        *,
        fingerprint: Fingerprint | None = None,
        device: torch.device | str | None = None,
        mmap: bool = True,
        verify: bool | None = None,
    ) -> Bank:
        """Open a saved bank.

        fingerprint: of the backbone it is for; BankMismatchError says what differs. device: where keys and values go
        (None: the CPU). mmap: leave keys and values in their files until they are used (CPU only); a row's come into
        memory when it is first written to. verify: compare checksums too (a second for each GB); None: for banks up to
        512 MB. Sizes are always checked; BankCorruptError names the file that is damaged.
        """
        return load_bank(cls, Path(path), fingerprint, device, mmap, verify)

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether there is a bank at a path, damaged or not."""
        return has_bank(path)

    @staticmethod
    def read_manifest(path: str | Path) -> Manifest:
        """What a saved bank holds (documents, sizes, backbone), without opening it."""
        return read_manifest(path)

    @classmethod
    def verify(cls, path: str | Path) -> Manifest:
        """Compare every file of a saved bank with its checksum, and what it holds with the manifest; BankCorruptError
        names the one that is damaged."""
        load_bank(cls, Path(path), None, None, True, True)
        return read_manifest(path)

    @classmethod
    def find_text(cls, path: str | Path, text: str, tokenizer: Any = None) -> list[str]:
        """Every place of a saved bank where a text is found, in what it holds and in the bytes of all files; none: it
        is not there. tokenizer: looks at remembered tokens too. See `ltm.bank.disk.absence`."""
        return find_text(cls, path, text, tokenizer)

    # helpers

    def _groups(self, rows: Rows | None, batch: int) -> list[Group]:
        return group_rows(self.rows, row_numbers(rows, batch, self.num_rows))

    def _unique_rows(self) -> list[Row]:
        return list({id(row): row for row in self.rows}.values())

    def _writable(self, number: int) -> Row:
        """A row to be changed: a copy of its own where others share it."""
        self.version = tick()
        row = self.rows[number]
        if row.sharers > 1:
            row.sharers -= 1
            row = self.rows[number] = row.copy()
        return row
