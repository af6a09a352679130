"""Saving a bank: new chunks as new shards, shards of deleted documents written anew, and then the manifest."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from safetensors.torch import save

from ltm.bank.chunks import NO_DOCUMENT
from ltm.bank.files import Transaction, remove_orphans, unique
from ltm.bank.lock import WriteLock, check_place
from ltm.bank.manifest import (
    DocumentEntry,
    Manifest,
    RowEntry,
    ShardEntry,
    TextEntry,
    has_bank,
    read_manifest,
)
from ltm.bank.names import SHARDS, TEXTS
from ltm.bank.rows import Row
from ltm.errors import BankError

if TYPE_CHECKING:
    from ltm.bank.bank import Bank

SHARD_BYTES = 64 * 2**20
"""Most bytes of chunks in a shard: what a save needs beside the bank, and about what a deletion rewrites."""


def save_bank(bank: Bank, path: Path, overwrite: bool, compact: bool = False) -> None:
    """See `Bank.save`."""
    check_place(path)
    try:
        with WriteLock(path):
            previous = _previous(bank, path, overwrite)
            _save(bank, path, previous, compact)
    except OSError as error:
        kept = "the bank there is still what was saved last" if has_bank(path) else "nothing was left there"
        raise BankError(
            f"could not save to {path}: {error.strerror or error}; {kept}; mend that, save again"
        ) from error


def _save(bank: Bank, path: Path, previous: Manifest | None, compact: bool) -> None:
    """compact: every shard is written anew, without what was evicted, as few as there can be."""
    shards_before = None if compact else previous
    with Transaction(path) as files:
        shards = [
            shard
            for number, row in enumerate(bank.rows)
            for shard in _row_shards(bank, number, row, shards_before, files)
        ]
        manifest = _manifest(bank, shards, _documents(bank, previous, files))
        files.commit(manifest)
    bank.saved_revisions[path.resolve()] = manifest.revision
    remove_orphans(path, manifest)


def _previous(bank: Bank, path: Path, overwrite: bool) -> Manifest | None:
    """What this bank saved at `path` before, to go on from; None: everything is to be written.

    Raises BankError where something else is there that must not be lost.
    """
    if not has_bank(path):
        return None
    if overwrite:
        return _known(bank, path)
    there = read_manifest(path)
    if there.uuid != bank.uuid:
        raise BankError(f"{path} holds another bank; load that one to add to it, or use overwrite=True")
    if there.revision != bank.saved_revisions.get(path.resolve()):
        raise BankError(
            f"{path} was changed by another process since this bank was loaded; load it again, or use overwrite=True"
        )
    return there


def _known(bank: Bank, path: Path) -> Manifest | None:
    """The manifest at `path` if this bank wrote it; anything else is replaced, damaged or not."""
    try:
        there = read_manifest(path)
    except BankError:
        return None
    return there if there.revision == bank.saved_revisions.get(path.resolve()) else None


def _row_shards(
    bank: Bank, number: int, row: Row, previous: Manifest | None, files: Transaction
) -> Iterator[ShardEntry]:
    """The shards of one row in order: kept, written anew without deleted documents, and new."""
    numbers = row.numbers()
    known = {document.id for document in bank.document_registry}
    for shard in previous.shards if previous else ():
        if shard.row != number or shard.last < row.first_number:
            continue  # another row's, or all evicted
        if known.issuperset(shard.documents) and not _has_holes(row, numbers, shard):
            yield shard
        else:
            low, high = _places(numbers, shard.first), _places(numbers, shard.last + 1)
            yield from _write_shards(bank, number, row, low, high, files)
    saved = previous.rows[number].next if previous else 0
    yield from _write_shards(bank, number, row, _places(numbers, saved), len(numbers), files)


def _has_holes(row: Row, numbers: Any, shard: ShardEntry) -> bool:
    """Whether chunks of a shard have left otherwise than oldest first: then it is written anew without them."""
    held = _places(numbers, shard.last + 1) - _places(numbers, shard.first)
    return row.usage is not None and held < shard.num_chunks


def _places(numbers: Any, slot: int) -> int:
    """How many of the ascending numbers are less than a slot."""
    return int((numbers < slot).sum())


def _write_shards(bank: Bank, number: int, row: Row, low: int, high: int, files: Transaction) -> Iterator[ShardEntry]:
    """Chunks at places low to high, in shards of at most SHARD_BYTES."""
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


def _documents(bank: Bank, previous: Manifest | None, files: Transaction) -> list[DocumentEntry]:
    """The documents, with texts that were not saved before written now."""
    saved = {entry.info.id: entry.text for entry in previous.documents} if previous else {}
    entries = []
    for info in bank.documents:
        text: TextEntry | None = saved.get(info.id)
        content = bank.document_text(info.id)
        if text is None and content is not None:
            name = f"{TEXTS}/{info.id}-{unique()}.txt"
            text = files.write(name, content.encode("utf-8", "surrogatepass"))
        entries.append(DocumentEntry(info, text))
    return entries


def _manifest(bank: Bank, shards: list[ShardEntry], documents: list[DocumentEntry]) -> Manifest:
    return Manifest(
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
        fingerprint_values=bank.fingerprint_values,
        extra=_plain(bank.extra),
        next_document=bank.document_registry.next_id,
        documents=documents,
        rows=[RowEntry(row.first_number, row.next_number, row.num_chunks, row.num_tokens) for row in bank.rows],
        shards=shards,
    )


def _center(bank: Bank) -> str | None:
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
