"""What a bank holds in memory, and how it is written: rows of chunks, and the documents that they came from."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import torch
from torch import Tensor

from ltm.bank.budget import budget_of
from ltm.bank.checks import check_layout, check_numbers, check_write, row_numbers
from ltm.bank.chunks import ChunkLayout, EventCut
from ltm.bank.config import BankConfig
from ltm.bank.document_counts import tick
from ltm.bank.documents import BankDocument, Documents
from ltm.bank.method_entry import MethodEntry
from ltm.bank.results import DocumentInfo
from ltm.bank.rows import MemoryRow
from ltm.bank.search.index import INDEXES
from ltm.bank.stored_tensor import Chunks
from ltm.errors import ConfigError
from ltm.lasting import lasting_tensors
from ltm.memory import Memory, Rows

if TYPE_CHECKING:
    from ltm.backbone.fingerprint import Fingerprint
    from ltm.bank.disk.saved import Saved

Self = TypeVar("Self", bound="BankContents")


class BankContents(Memory):
    """Rows and documents of a bank, and whose keys and values these are; arguments as of `Bank`."""

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
        self.layers, self.dtype, self._device = tuple(layers), dtype, torch.device(device)
        self.num_kv_heads, self.head_dim = num_kv_heads, head_dim
        self.backbone, self.extra = backbone, dict[str, Any]()
        self.method: MethodEntry | None = None  # what reads it; `ltm.methods.banks` says so
        self._fingerprint = fingerprint
        self.uuid = uuid4().hex
        self.layout = ChunkLayout(
            num_layers=len(layers),
            num_kv_heads=num_kv_heads,
            chunk_size=self.config.chunk_size,
            head_dim=head_dim,
            dtype=dtype,
            device=self.device,
            key_storage=self.config.key_storage,
            value_storage=self.config.value_storage,
            search_storage=self.config.search_storage,
            key_center=key_center,
            event_heads=self.config.event_heads,
            offload=self.config.offload,
        )
        check_layout(self.layout)
        self.budget = budget_of(self.config, self.layout)
        self.document_registry = Documents()
        self.saved: dict[Path, Saved] = {}  # what this bank last wrote or read, by directory
        self.rows: list[MemoryRow] = []
        self.version = 0
        """Another number after every write, deletion, reset and merge: what was worked out from the bank's content is
        good as long as it stays. No two banks of a process that hold different things have the same."""
        self.begin(num_rows)

    def begin(self, rows: int) -> None:
        """Make the empty rows of a bank that was made with none; one that has rows stays as it is."""
        if self.rows:
            return
        new_index, evict = INDEXES[self.config.index], self.config.evict
        self.rows = [MemoryRow(self.layout, self.budget, new_index, evict) for _ in range(rows)]
        self.version = tick()
        for saved in self.saved.values():
            saved.begin(rows)

    def empty_like(self: Self, **settings: Any) -> Self:
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
    def device(self) -> torch.device:
        """Where keys and values lie; token ids and spans are on the host."""
        return self._device

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The identity of the backbone that made the bank."""
        if isinstance(self._fingerprint, Mapping):
            from ltm.backbone.fingerprint import Fingerprint  # imports transformers: only where it is asked for

            self._fingerprint = Fingerprint.from_dict(dict(self._fingerprint))
        return self._fingerprint

    @property
    def writer_digest(self) -> str | None:
        """Digest of the trained network beside the backbone whose keys and values these are; None: the backbone's own.

        Banks of two such writers are not merged, and no other writer's model reads them. Kept in `extra` as "encoder".
        """
        return self.extra.get("encoder")

    @writer_digest.setter
    def writer_digest(self, digest: str | None) -> None:
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

    def add_document(
        self, name: str, *, row: int = 0, text: str | None = None, ranges: Iterable[tuple[int, int]] | None = None
    ) -> int:
        """Announce a document that is about to be written to a row; returns its id.

        text: its whole text, kept (and saved) so that a passage can be shown; the spans given to `write` are ranges
        of its characters. ranges: those that are to be remembered, None for all. The document counts as incomplete
        until `finish_document`.
        """
        row_numbers([row], 1, self.num_rows)
        return self.document_registry.add(name, row, text, ranges)

    def finish_document(self, document: int) -> None:
        """Note that a document was written to its end; one that was not (a killed read) shows as incomplete."""
        self.document_registry.finish(document)

    @property
    def documents(self) -> list[DocumentInfo]:
        """All documents in the order they were added, with what is held of them now."""
        rows = self.unique_rows()
        return [self._info(document, rows) for document in self.document_registry]

    def document_info(self, document: int) -> DocumentInfo:
        """One of them. Raises BankError for an unknown id."""
        return self._info(self.document_registry[document], self.unique_rows())

    def documents_named(self, name: str) -> list[DocumentInfo]:
        """Those of a name, at a cost that does not depend on how many others there are."""
        rows = self.unique_rows()
        return [self._info(document, rows) for document in self.document_registry.named(name)]

    @staticmethod
    def _info(document: BankDocument, rows: Sequence[MemoryRow]) -> DocumentInfo:
        held = [row.held.counts.get(document.id, (0, 0)) for row in rows]
        tokens, chunks = (sum(column) for column in zip(*held, strict=True))
        length = len(document.text or "")
        return DocumentInfo(document.id, document.name, document.row, tokens, chunks, length, document.complete)

    def document_text(self, document: int) -> str | None:
        """The text of a document; None if it was added without. Raises BankError for an unknown id."""
        return self.document_registry[document].text

    @lasting_tensors()
    def delete_document(self, document: int) -> None:
        """Remove a document from memory: entries, search keys, token ids, text; from disk at the next save.

        The slots of other chunks stay as they are.
        """
        self.document_registry[document]
        self.version = tick()
        for number, row in enumerate(self.rows):
            if document in row.held.counts:
                self.writable_row(number).delete_document(document)
        self.document_registry.delete([document])

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
            if len(ids):
                own = keys[:, batch][:, :, chosen], values[:, batch][:, :, chosen]
                own_spans = None if spans is None else spans[batch][chosen]
                document = None if documents is None else documents[batch]
                cut = None if events is None else events[batch]
                written.append((number, *self._cut(*own, ids, own_spans, document, cut)))
        for number, chunks, tokens, found_by in written:  # all of it was found to be right before
            self.writable_row(number).append(chunks, tokens, found_by)

    def _cut(
        self,
        keys: Tensor,
        values: Tensor,
        token_ids: Tensor,
        spans: Tensor | None,
        document: int | None,
        cut: EventCut | None,
    ) -> tuple[Chunks, int, Chunks | None]:
        """What is written to one row, as it is stored: chunks, how many tokens, and events. Raises as `write`."""
        self.layout.check_events(cut, len(token_ids))
        chunks = self.layout.cut(keys, values, token_ids, spans, document)
        events = None if cut is None else self.layout.events(cut)
        check_numbers(chunks | (events or {}), token_ids, self.vocab_size)
        return chunks, len(token_ids), events

    def reset(self, rows: Rows | None = None) -> None:
        """Empty all rows or some, and delete the documents of which no other row holds anything."""
        numbers = range(self.num_rows) if rows is None else row_numbers(rows, len(rows), self.num_rows)
        for number in set(numbers):
            self.rows[number].sharers -= 1
            self.rows[number] = self.rows[number].successor()
        held = {document for row in self.unique_rows() for document in row.held.counts}
        self.document_registry.delete([d.id for d in self.document_registry if d.row in numbers and d.id not in held])
        self.version = tick()

    def select(self: Self, rows: Rows) -> Self:
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

    # sizes

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    @property
    def is_empty(self) -> bool:
        """Whether no row holds a token and no document is known."""
        return not len(self.document_registry) and not any(row.num_tokens for row in self.rows)

    def num_tokens(self, row: int = 0) -> int:
        """Tokens that a row holds."""
        return self.rows[row_numbers([row], 1, self.num_rows)[0]].num_tokens

    def num_chunks(self, row: int = 0) -> int:
        """Chunks that a row holds."""
        return self.rows[row_numbers([row], 1, self.num_rows)[0]].num_chunks

    @property
    def largest_token_id(self) -> int:
        """Of all rows; -1: they are empty."""
        ids = (row.ring.ordered("token_ids") for row in self.unique_rows() if row.num_chunks)
        return max((int(of_row.max()) for of_row in ids), default=-1)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, room to grow (at most a quarter, never beyond the budget) included.

        Entries that a loaded bank still has in its files are not counted: `mapped_nbytes`.
        """
        return sum(row.nbytes for row in self.unique_rows())

    @property
    def mapped_nbytes(self) -> int:
        """Bytes of keys and values that stay in the files they were loaded from."""
        return sum(row.mapped.nbytes for row in self.unique_rows() if row.mapped is not None)

    # helpers

    def unique_rows(self) -> list[MemoryRow]:
        """The rows, each once, however many of the bank's share it."""
        return list({id(row): row for row in self.rows}.values())

    def writable_row(self, number: int) -> MemoryRow:
        """A row to be changed: a copy of its own where others share it."""
        self.version = tick()
        row = self.rows[number]
        if row.sharers > 1:
            row.sharers -= 1
            row = self.rows[number] = row.copy()
        return row
