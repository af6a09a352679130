"""Saving a bank: new chunks as new shards, shards of deleted documents written anew, a line in the journal, and then
the manifest."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors.torch import save

from ltm.bank.chunks import NO_DOCUMENT
from ltm.bank.contents import BankContents
from ltm.bank.disk.file_names import SHARDS, TEXTS
from ltm.bank.disk.files import Transaction, folder_stamps, remove_derived, remove_files, remove_orphans, unique
from ltm.bank.disk.journal import BankJournal, Record
from ltm.bank.disk.lock import WriteLock, check_place
from ltm.bank.disk.manifest import Head
from ltm.bank.disk.manifest_entries import DocumentEntry, FileEntry, RowEntry, ShardEntry
from ltm.bank.disk.manifest_file import has_bank, read_head
from ltm.bank.disk.plain_files import plain_stat
from ltm.bank.disk.saved import Saved, SlotRun, joined
from ltm.bank.document_counts import tick
from ltm.bank.rows import MemoryRow
from ltm.errors import BankError

SHARD_BYTES = 64 * 2**20
"""Most bytes of chunks in a shard: what a save needs beside the bank, and about what a deletion rewrites."""


def save_bank(bank: BankContents, path: Path, overwrite: bool, compact: bool = False) -> None:
    """See `Bank.save`."""
    try:
        check_place(path)
        with WriteLock(path):
            _save(bank, path, _previous(bank, path, overwrite), compact)
    except OSError as error:
        kept = "the bank there is still what was saved last" if has_bank(path) else "nothing was left there"
        raise BankError(
            f"could not save to {path}: {error.strerror or error}; {kept}; mend that, save again"
        ) from error


def _save(bank: BankContents, path: Path, saved: Saved | None, compact: bool) -> None:
    """compact: every shard is written anew, without what was evicted, as few as there can be."""
    moment, stamps = tick(), folder_stamps(path)
    goes_on = saved if saved is not None and not compact and _goes_on(bank, path, saved) else None
    if goes_on is None:  # something may have been deleted, and before that is said it is to be gone from there, too
        remove_derived(path)
    with Transaction(path) as files:
        kept = None if compact else saved
        shards = [_row_shards(bank, row, number, kept, files) for number, row in enumerate(bank.rows)]
        documents = _documents(bank, saved, goes_on, files)
        journal = _journal(goes_on, shards, documents, files)
        head = _head(bank, journal)
        files.commit(head.to_json())
    texts = {} if goes_on is None else goes_on.texts
    texts.update((document.info.id, document.text) for document in documents)
    now = Saved(head.revision, moment, texts, shards, [row.next for row in head.rows], journal)
    bank.saved[path.resolve()] = now
    _sweep(path, goes_on if goes_on is not None and goes_on.stamps == stamps else None, now)
    now.stamps = folder_stamps(path)


def _sweep(path: Path, before: Saved | None, now: Saved) -> None:
    """Remove what a save made outdated, and leftovers of killed saves; before: None, where any file may be one."""
    if before is not None:
        remove_files(path, _files(before.shards) - _files(now.shards))
    named = set() if before is not None else {text.file for text in now.texts.values() if text is not None}
    assert now.journal is not None
    folders = () if before is not None else (SHARDS, TEXTS)
    remove_orphans(path, named | _files(now.shards) | {now.journal.file}, folders)


def _goes_on(bank: BankContents, path: Path, saved: Saved) -> bool:
    """Whether the journal gets a line more. If not, it is written anew: nothing of what was removed stays in it."""
    if saved.journal is None or bank.document_registry.deleted_at > saved.moment:
        return False
    if saved.journal.is_outdated(len(saved.texts) + sum(map(len, saved.shards))):
        return False
    with suppress(OSError):  # it is gone, or no plain file: what is known goes into a new one
        return plain_stat(path, saved.journal.file).st_nlink == 1  # else it is a copy's journal, too
    return False


def _files(shards: Sequence[Sequence[ShardEntry]]) -> set[str]:
    return {shard.file for row in shards for shard in row}


def _previous(bank: BankContents, path: Path, overwrite: bool) -> Saved | None:
    """What this bank saved at `path` before, to go on from; None: everything is to be written.

    Raises BankError where something else is there that must not be lost.
    """
    if not has_bank(path):
        return None
    saved = bank.saved.get(path.resolve())
    if overwrite:
        return saved if saved is not None and _revision(path) == saved.revision else None
    there = read_head(path)
    if there.uuid != bank.uuid:
        raise BankError(f"{path} holds another bank; load that one to add to it, or use overwrite=True")
    if saved is None or there.revision != saved.revision:
        raise BankError(
            f"{path} was changed by another process since this bank was loaded; load it again, or use overwrite=True"
        )
    return saved


def _revision(path: Path) -> str | None:
    """Of the bank at `path`; None where it is damaged, and is replaced all the same."""
    try:
        return read_head(path).revision
    except BankError:
        return None


def _row_shards(
    bank: BankContents, row: MemoryRow, number: int, saved: Saved | None, files: Transaction
) -> list[ShardEntry]:
    """The shards of one row in order: kept, written anew (without deleted documents, or as one), and new."""
    runs = [] if saved is None else [_run(bank, row, shard, saved) for shard in saved.shards[number]]
    runs = [run for run in runs if run.last >= row.first_slot]  # the others are evicted
    first = 0 if saved is None else saved.next_slots[number]
    new = row.num_chunks - row.chunks_below(first)
    if new:
        runs = joined([*runs, SlotRun(first, row.next_slot - 1, new * bank.layout.bytes_per_chunk)])
    shards: list[ShardEntry] = []
    for run in runs:
        if run.entry is not None:
            shards.append(run.entry)
        else:
            low, high = row.chunks_below(run.first), row.chunks_below(run.last + 1)
            shards += _write_shards(bank, number, row, low, high, files)
    return shards


def _run(bank: BankContents, row: MemoryRow, shard: ShardEntry, saved: Saved) -> SlotRun:
    """A shard that is there; to be written anew where it holds what the bank does not any more, but the oldest chunks
    of a row, which go with it."""
    known = bank.document_registry.by_id.keys()
    outdated = bank.document_registry.deleted_at > saved.moment and not known >= set(shard.documents)
    if row.usage is not None:  # chunks may have been evicted otherwise than oldest first
        outdated |= row.chunks_below(shard.last + 1) - row.chunks_below(shard.first) < shard.num_chunks
    return SlotRun(shard.first, shard.last, shard.num_bytes, None if outdated else shard)


def _write_shards(
    bank: BankContents, number: int, row: MemoryRow, low: int, high: int, files: Transaction
) -> Iterator[ShardEntry]:
    """Chunks at indices low to high, in shards of at most SHARD_BYTES."""
    step = max(SHARD_BYTES // bank.layout.bytes_per_chunk, 1)
    for start in range(low, high, step):
        chunks = row.chunks(start, min(step, high - start))
        first, last = int(chunks["numbers"][0]), int(chunks["numbers"][-1])
        content = save(chunks, metadata={"format": "ltm-bank-shard", "uuid": bank.uuid, "row": str(number)})
        written = files.write(f"{SHARDS}/{number}-{first}-{last}-{unique()}.safetensors", content)
        documents = sorted(set(chunks["documents"].tolist()) - {NO_DOCUMENT})
        tokens = int(chunks["counts"].sum())
        yield ShardEntry(
            **vars(written),
            row=number,
            first=first,
            last=last,
            num_chunks=len(chunks["counts"]),
            num_tokens=tokens,
            documents=documents,
        )


def _documents(
    bank: BankContents, saved: Saved | None, goes_on: Saved | None, files: Transaction
) -> list[DocumentEntry]:
    """The documents that are new or have changed, or all of them, with texts that were not saved before written now."""
    infos = bank.documents if goes_on is None else [bank.document_info(number) for number in _changed(bank, goes_on)]
    texts = {} if saved is None else saved.texts
    entries = []
    for info in infos:
        text: FileEntry | None = texts.get(info.id)
        content = bank.document_text(info.id)
        if text is None and content is not None:
            name = f"{TEXTS}/{info.id}-{unique()}.txt"
            text = files.write(name, content.encode("utf-8", "surrogatepass"))
        ranges = bank.document_registry[info.id].ranges
        entries.append(DocumentEntry(info, text, None if ranges is None else [list(both) for both in ranges]))
    return entries


def _changed(bank: BankContents, saved: Saved) -> list[int]:
    """The ids of documents of which something is another than it was saved."""
    changes = [bank.document_registry.changes, *(row.changes for row in bank.unique_rows())]
    ids = {document for log in changes for document in log.since(saved.moment)}
    return sorted(number for number in ids if number in bank.document_registry)


def _journal(
    goes_on: Saved | None,
    shards: Sequence[Sequence[ShardEntry]],
    documents: list[DocumentEntry],
    files: Transaction,
) -> BankJournal:
    """The journal with what is new, or a new one with all there is."""
    before = set[str]() if goes_on is None else _files(goes_on.shards)
    new = [shard for row in shards for shard in row if shard.file not in before]
    record = Record(documents, new, sorted(before - _files(shards)))
    line = record.to_line()
    if goes_on is None or goes_on.journal is None:
        name = f"journal-{unique()}.jsonl"
        files.write(name, line)
        return BankJournal(name).extended(line, record.num_entries)
    files.append(goes_on.journal, line)
    return goes_on.journal.extended(line, record.num_entries)


def _head(bank: BankContents, journal: BankJournal) -> Head:
    return Head(
        uuid=bank.uuid,
        revision=uuid4().hex,
        library=_library_version(),
        config=bank.config,
        layers=list(bank.layers),
        num_kv_heads=bank.num_kv_heads,
        head_dim=bank.head_dim,
        dtype=str(bank.dtype).removeprefix("torch."),
        key_center=_center(bank),
        backbone=bank.backbone,
        method=bank.method,
        fingerprint_values=bank.fingerprint_values,
        extra=_plain(bank.extra),
        next_document=bank.document_registry.next_id,
        rows=[RowEntry(row.first_slot, row.next_slot, row.num_chunks, row.num_tokens) for row in bank.rows],
        journal=journal.entry,
    )


def _center(bank: BankContents) -> str | None:
    center = bank.layout.key_center
    return None if center is None else base64.b64encode(center.cpu().numpy().astype("<f4").tobytes()).decode()


def _plain(extra: dict[str, Any]) -> dict[str, Any]:
    """`extra` as JSON will give it back."""
    try:
        return dict(json.loads(json.dumps(extra)))
    except (TypeError, ValueError) as error:
        raise BankError(f"bank.extra cannot be saved as JSON ({error}); keep plain values in it") from error


def _library_version() -> str:
    try:
        return version("ltm")
    except PackageNotFoundError:
        return "unknown"
