"""Whether a manifest, or a shard beside it, makes sense: each checksum may be right and the whole still be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from ltm.bank.chunks import NO_DOCUMENT, ChunkLayout
from ltm.bank.field import Chunks
from ltm.bank.names import SHARD_NAME, TEXT_NAME
from ltm.bank.storage import FLOATS

if TYPE_CHECKING:
    from ltm.bank.manifest import Manifest, ShardEntry


def manifest_problems(manifest: Manifest) -> Iterator[str]:
    """What of a manifest cannot be, one sentence each."""
    sizes = {
        "num_kv_heads": manifest.num_kv_heads,
        "head_dim": manifest.head_dim,
        "rows": len(manifest.rows),
    }
    yield from (f"{name} is {size}" for name, size in sizes.items() if size < 1)
    if manifest.dtype not in FLOATS:
        yield f"dtype {manifest.dtype} is not known"
    ids = [document.info.id for document in manifest.documents]
    if len(set(ids)) != len(ids) or any(not 0 <= number < manifest.next_document for number in ids):
        yield "the ids of its documents are not those of one bank"
    if any(not 0 <= document.info.row < len(manifest.rows) for document in manifest.documents):
        yield "a document is in a row that is not there"
    if any(d.text is not None and not TEXT_NAME.fullmatch(d.text.file) for d in manifest.documents):
        yield "a text has a name that no bank gives"
    names = [file.file for file in manifest.files]
    if len(set(names)) != len(names) or any(file.num_bytes < 0 for file in manifest.files):
        yield "a file is named twice, or has less than no bytes"
    for number, row in enumerate(manifest.rows):
        if not 0 <= row.first <= row.next or row.num_chunks < 0 or row.num_tokens < 0:
            yield f"the slots of row {number} run from {row.first} to {row.next}"
    yield from _shard_entry_problems(manifest, set(ids))


def _shard_entry_problems(manifest: Manifest, documents: set[int]) -> Iterator[str]:
    for shard in manifest.shards:
        if not SHARD_NAME.fullmatch(shard.file):
            yield f"{shard.file} is a name that no bank gives"
        if not 0 <= shard.row < len(manifest.rows):
            yield f"{shard.file} is of row {shard.row}, which is not there"
        elif not 0 <= shard.first <= shard.last < manifest.rows[shard.row].next:
            yield f"the slots of {shard.file} are not those of its row"
        if not 1 <= shard.num_chunks <= shard.last - shard.first + 1 or not documents.issuperset(shard.documents):
            yield f"{shard.file} has other chunks or documents than the bank"
    by_place = sorted(manifest.shards, key=lambda shard: (shard.row, shard.first))
    for one, other in pairwise(by_place):
        if one.row == other.row and other.first <= one.last:
            yield f"{one.file} and {other.file} hold the same slots"


def shard_problems(chunks: Chunks, entry: ShardEntry, layout: ChunkLayout) -> Iterator[str]:
    """What of a shard's chunks is not what the manifest says of it."""
    num_events = chunks["starts"].numel() if layout.event_fields else 0
    for name, field in layout.all_fields.items():
        count = num_events if name in layout.event_fields else entry.num_chunks
        if chunks[name].shape != (*field.before, count, *field.after) or chunks[name].dtype != field.dtype:
            yield f"its {name} do not have the shape or dtype of this bank"
            return
    numbers, counts, documents = (chunks[name] for name in ("numbers", "counts", "documents"))
    if int(numbers[0]) != entry.first or int(numbers[-1]) != entry.last or bool((numbers.diff() < 1).any()):
        yield "its slots are not those of the manifest"
    if int(counts.min()) < 1 or int(counts.max()) > layout.chunk_size or int(counts.sum()) != entry.num_tokens:
        yield "its chunks do not hold the tokens that they should"
    if not set(documents[torch.cat((documents.new_ones(1), documents.diff())) != 0].tolist()) <= {
        *entry.documents,
        NO_DOCUMENT,
    }:
        yield "it holds documents that it should not"
    if num_events:
        starts, ends = chunks["starts"], chunks["starts"] + chunks["sizes"]
        if not bool(torch.isin(starts, numbers).all()) or bool((ends <= starts).any() | (starts[1:] < ends[:-1]).any()):
            yield "its events do not begin at its tokens, one after another"
