"""Whether a manifest, or a shard beside it, makes sense: each checksum may be right and the whole still be wrong."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import pairwise
from types import NoneType
from typing import Any

import torch

from ltm.bank.checks import number_problems, token_problems
from ltm.bank.chunks import NO_DOCUMENT, ChunkLayout
from ltm.bank.disk.file_names import JOURNAL_NAME, SHARD_NAME, TEXT_NAME
from ltm.bank.disk.manifest import Head, Manifest
from ltm.bank.disk.manifest_entries import ShardEntry
from ltm.bank.documents import are_ranges
from ltm.bank.storage import FLOATS
from ltm.bank.stored_tensor import Chunks

MOST = {
    "layers": 2**12,
    "num_kv_heads": 2**12,
    "head_dim": 2**14,
    "rows": 2**14,
    "next_document": 2**30,
}
"""Of what there can be in a bank; what a manifest says is made room for before a shard is looked at."""
MOST_SLOT = 2**53
"""Slots that a row may have given: what every reader of JSON keeps apart."""
MOST_CHUNK_BYTES = 2**30
"""About what a chunk may take: larger ones are no model's, and a row makes room for 16 at its first write."""
MOST_JOURNAL_BYTES = 2**28
"""Of a journal, and of a manifest; those of a million documents take less."""


def head_problems(head: Head) -> Iterator[str]:
    """What of a manifest itself cannot be, one sentence each."""
    sizes = {"num_kv_heads": head.num_kv_heads, "head_dim": head.head_dim}
    yield from (f"{name} is {size}" for name, size in sizes.items() if not 1 <= size <= MOST[name])
    if len(head.rows) > MOST["rows"]:  # none: a memory that was not read to yet
        yield f"rows is {len(head.rows)}"
    if not re.fullmatch("[0-9a-f]{32}", head.uuid):
        yield "its uuid is none"
    if not 0 <= head.next_document <= MOST["next_document"]:
        yield f"next_document is {head.next_document}"
    if len(head.layers) > MOST["layers"] or any(not 0 <= layer < MOST["layers"] for layer in head.layers):
        yield f"layers are {head.layers[:5]}"
    if head.dtype not in FLOATS:
        yield f"dtype {head.dtype} is not known"
    elif _chunk_bytes(head) > MOST_CHUNK_BYTES:
        yield f"a chunk of it has {_chunk_bytes(head):,} bytes, more than the {MOST_CHUNK_BYTES:,} that are read"
    if head.journal is not None and not JOURNAL_NAME.fullmatch(head.journal.file):
        yield "its journal has a name that no bank gives"
    if head.journal is not None and not 0 <= head.journal.num_bytes <= MOST_JOURNAL_BYTES:
        yield f"its journal has {head.journal.num_bytes} bytes"
    yield from _fingerprint_problems(head.fingerprint_values or {})
    if head.method is not None:
        odd = [
            name for name, value in head.method.options.items() if not isinstance(value, (int, float, str, NoneType))
        ]
        yield from (f"the option {name} of its method is no plain value" for name in odd)
    for number, row in enumerate(head.rows):
        counted = 0 <= row.num_chunks <= row.next - row.first and 0 <= row.num_tokens <= MOST_SLOT
        if not 0 <= row.first <= row.next <= MOST_SLOT or not counted:
            yield f"the slots of row {number} run from {row.first} to {row.next}, with {row.num_chunks} chunks"


def _chunk_bytes(head: Head) -> int:
    """About what the keys and values of a chunk, and the keys of an event, take."""
    numbers = len(head.layers) * head.head_dim
    entries = 2 * head.num_kv_heads * head.config.chunk_size + (head.config.event_heads or 0)
    return numbers * entries * FLOATS[head.dtype].itemsize


def _fingerprint_problems(values: dict[str, Any]) -> Iterator[str]:
    """What is used of a fingerprint beyond comparing it."""
    if "dtype" in values and (not isinstance(values["dtype"], str) or values["dtype"] not in FLOATS):
        yield f"the dtype of its fingerprint, {values['dtype']!r}, is not known"
    size = values.get("vocab_size", 1)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        yield f"the vocab_size of its fingerprint is {size!r}"


def manifest_problems(manifest: Manifest) -> Iterator[str]:
    """What of the documents and shards of a bank cannot be, one sentence each."""
    ids = [document.info.id for document in manifest.documents]
    if len(set(ids)) != len(ids) or any(not 0 <= number < manifest.next_document for number in ids):
        yield "the ids of its documents are not those of one bank"
    if any(not 0 <= document.info.row < len(manifest.rows) for document in manifest.documents):
        yield "a document is in a row that is not there"
    counts = (count for d in manifest.documents for count in (d.info.num_tokens, d.info.num_chunks, d.info.num_chars))
    if any(not 0 <= count <= MOST_SLOT for count in counts):
        yield "a document has fewer than no tokens, or more than there can be"
    if any(d.ranges is not None and not are_ranges(d.ranges, d.info.num_chars) for d in manifest.documents):
        yield "a document is remembered in ranges that are not those of its text"
    if any(d.text is not None and not TEXT_NAME.fullmatch(d.text.file) for d in manifest.documents):
        yield "a text has a name that no bank gives"
    names = [file.file for file in manifest.files]
    if len(set(names)) != len(names) or any(not 0 <= file.num_bytes <= MOST_SLOT for file in manifest.files):
        yield "a file is named twice, or has less than no bytes, or more than there can be"
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


def shard_problems(
    chunks: Chunks, entry: ShardEntry, layout: ChunkLayout, vocab_size: int | None, checked: Collection[str]
) -> Iterator[str]:
    """What of a shard's chunks is not what the manifest says of it, or cannot be; checked: fields whose numbers are
    looked at."""
    num_events = chunks["starts"].numel() if layout.event_fields else 0
    for name, field in layout.all_fields.items():
        count = num_events if name in layout.event_fields else entry.num_chunks
        if chunks[name].shape != (*field.before, count, *field.after) or chunks[name].dtype != field.dtype:
            yield f"its {name} do not have the shape or dtype of this bank"
            return
    slots, counts, documents = (chunks[name] for name in ("numbers", "counts", "documents"))
    if int(slots[0]) != entry.first or int(slots[-1]) != entry.last or bool((slots.diff() < 1).any()):
        yield "its slots are not those of the manifest"
    if int(counts.min()) < 1 or int(counts.max()) > layout.chunk_size or int(counts.sum()) != entry.num_tokens:
        yield "its chunks do not hold the tokens that they should"
    yield from token_problems(chunks["token_ids"], vocab_size)
    yield from number_problems(chunks, checked)
    if not set(documents[torch.cat((documents.new_ones(1), documents.diff())) != 0].tolist()) <= {
        *entry.documents,
        NO_DOCUMENT,
    }:
        yield "it holds documents that it should not"
    if num_events:
        starts, ends = chunks["starts"], chunks["starts"] + chunks["sizes"]
        if not bool(torch.isin(starts, slots).all()) or bool((ends <= starts).any() | (starts[1:] < ends[:-1]).any()):
            yield "its events do not begin at its tokens, one after another"
