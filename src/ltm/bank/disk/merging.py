"""Chunks of one bank into another: as they are stored where both store alike, else decoded and encoded anew."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ltm.bank.checks import check_numbers
from ltm.bank.chunks import NO_DOCUMENT, ChunkLayout
from ltm.bank.contents import BankContents
from ltm.bank.documents import BankDocument
from ltm.bank.rows import MemoryRow
from ltm.bank.storage import SCALE
from ltm.bank.stored_tensor import Chunks
from ltm.errors import BankError, BankMismatchError

BLOCK_CHUNKS = 4096
"""Chunks that are copied at a time."""


def merge_banks(bank: BankContents, other: BankContents) -> list[str]:
    """See `Bank.merge`."""
    _check_same(bank, other)
    same = _documents_of_both(bank, other)
    new_ids = {NO_DOCUMENT: NO_DOCUMENT}
    for document in other.document_registry:
        if document not in same:
            new_ids[document.id] = bank.add_document(
                document.name, row=document.row, text=document.text, ranges=document.ranges
            )
            if document.complete:
                bank.finish_document(new_ids[document.id])
    for number, row in enumerate(other.rows):
        _add_row(bank, number, row, new_ids)
    return [document.name for document in same]


def _documents_of_both(bank: BankContents, other: BankContents) -> list[BankDocument]:
    """The documents of the other bank that are in this one, text for text. Raises BankError where a name stands for
    different texts."""
    known = {document.name: document for document in bank.document_registry}
    same: list[BankDocument] = []
    clashes: list[BankDocument] = []
    for document in other.document_registry:
        if document.name in known:
            mine = known[document.name]
            alike = mine.complete and document.text is not None and mine.text == document.text
            (same if alike else clashes).append(document)
    if clashes:
        names = ", ".join(document.name for document in clashes[:5])
        raise BankError(f"both banks hold different documents called {names}; delete or rename one of each")
    return same


def _add_row(bank: BankContents, number: int, row: MemoryRow, new_ids: dict[int, int]) -> None:
    """Add what a row of another bank holds of these documents to the row of this number."""
    last = None
    for chunks in _runs(row, new_ids):
        mine = bank.writable_row(number)
        if last is None or int(chunks["numbers"][0]) != last + 1:
            mine.next_slot += 1  # a gap: nothing of one run follows what is before it
        last = int(chunks["numbers"][-1])
        events = _events(chunks, row.layout) if bank.layout.event_fields else None
        stored = converted(chunks, row.layout, bank.layout)
        check_numbers(stored, chunks["token_ids"], bank.vocab_size)  # float16 may not hold what float32 did
        mine.append(stored, int(chunks["counts"].sum()), events)


def converted(chunks: Chunks, source: ChunkLayout, target: ChunkLayout) -> Chunks:
    """Chunks of one layout as another stores them."""
    moved = {name: tensor.to(target.fields[name].device) for name, tensor in chunks.items() if name in target.fields}
    light = {name: tensor for name, tensor in moved.items() if name in ("counts", "documents", "token_ids", "spans")}
    if source.codecs == target.codecs and _same_center(source, target):
        return moved
    there = torch.arange(source.chunk_size, device=chunks["counts"].device) < chunks["counts"][:, None]
    whole = {name: decoded(chunks, source, name) * there[..., None] for name in ("keys", "values")}
    if "search_keys" in target.codecs:
        stored = "search_keys" in source.codecs
        whole["search_keys"] = (
            decoded(chunks, source, "search_keys") if stored else target.means(whole["keys"], chunks["counts"])
        )
    heavy = (target.encode(name, tensor.to(target.device)) for name, tensor in whole.items())
    return light | {name: tensor for parts in heavy for name, tensor in parts.items()}


def _events(chunks: Chunks, layout: ChunkLayout) -> Chunks:
    """The events of a run as a row takes them: their starts count from its first chunk."""
    events = {name: chunks[name] for name in layout.event_fields}
    return {**events, "starts": events["starts"] - chunks["numbers"][0].cpu()}


def decoded(chunks: Chunks, layout: ChunkLayout, name: str) -> Tensor:
    """ "keys", "values" or "search_keys" of chunks as floats, [layers, kv_heads, chunks, ...]."""
    codec, center = layout.codecs[name], layout.center(name)
    if codec.bits is None:
        return chunks[name]
    if center is not None:
        center = center.view(*center.shape[:2], *(1,) * len(codec.shape), layout.head_dim)
    return codec.restore(codec.decode(chunks[name], chunks[name + SCALE]), center).to(layout.dtype)


def _runs(row: MemoryRow, new_ids: dict[int, int]) -> Iterator[Chunks]:
    """The chunks of known documents, under their new ids, in runs of consecutive slots, with the events that begin in
    each."""
    for first in range(0, row.num_chunks, BLOCK_CHUNKS):
        chunks = row.chunks(first, min(BLOCK_CHUNKS, row.num_chunks - first))
        axes = {name: field.axis for name, field in row.layout.fields.items()}
        wanted = torch.tensor([document in new_ids for document in chunks["documents"].tolist()])
        indices = wanted.nonzero().squeeze(1)
        gaps = (chunks["numbers"][indices].diff() != 1).nonzero().squeeze(1) + 1
        for run in torch.tensor_split(indices, gaps.tolist()):
            if len(run):
                part = {name: chunks[name].index_select(axis, run) for name, axis in axes.items()}
                if row.events is not None:
                    part |= row.events.chunks(int(part["numbers"][0]), int(part["numbers"][-1]))
                documents = [new_ids[document] for document in part["documents"].tolist()]
                yield {**part, "documents": torch.tensor(documents, dtype=torch.int32)}


def _same_center(one: ChunkLayout, other: ChunkLayout) -> bool:
    centers = (one.key_center, other.key_center)
    if any(center is None for center in centers):
        return centers[0] is centers[1]
    return torch.equal(centers[0].cpu(), centers[1].cpu())  # type: ignore[union-attr]


def _check_same(bank: BankContents, other: BankContents) -> None:
    """Raise BankMismatchError where the two cannot be one."""
    differences = []
    if bank.fingerprint is not None and other.fingerprint is not None:
        differences += bank.fingerprint.differences(other.fingerprint)
    for name in ("writer_digest", "layers", "num_kv_heads", "head_dim", "dtype", "num_rows"):
        mine, theirs = getattr(bank, name), getattr(other, name)
        if mine != theirs:
            differences.append(f"{name}: {mine} and {theirs}")
    for name in ("chunk_size", "event_heads"):
        mine, theirs = getattr(bank.config, name), getattr(other.config, name)
        if mine != theirs:
            differences.append(f"{name}: {mine} and {theirs}")
    if differences:
        raise BankMismatchError(
            f"these banks cannot be merged: {'; '.join(differences)}; rebuild one of them from its texts"
        )
