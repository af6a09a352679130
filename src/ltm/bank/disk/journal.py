"""The journal of a saved bank: its documents and shards, a line for each save, so that a save costs what is new.

A save adds its line behind what the manifest names of the journal, and then replaces the manifest, which names one line
more: up to there nothing has changed. Where much of it is outdated, or a document was removed, it is written anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ltm.bank.disk.manifest_entries import DocumentEntry, FileEntry, ShardEntry
from ltm.decode_json import typed

SPARE_ENTRIES = 1024
"""Outdated entries that a journal may have beside as many as there are valid ones."""


@dataclass(frozen=True)
class Record:
    """A line: documents that are new or have changed, new shards, and the names of shards that are gone."""

    documents: list[DocumentEntry]
    shards: list[ShardEntry]
    dropped: list[str]

    def to_line(self) -> bytes:
        documents, shards = [one.to_dict() for one in self.documents], [asdict(shard) for shard in self.shards]
        plain = {"documents": documents, "shards": shards, "dropped": self.dropped}
        return json.dumps(plain, separators=(",", ":")).encode() + b"\n"

    @property
    def num_entries(self) -> int:
        return len(self.documents) + len(self.shards) + len(self.dropped)


@dataclass(frozen=True)
class BankJournal:
    """How far a journal goes: its file, bytes and entries, and the state of the hash over these bytes."""

    file: str
    num_bytes: int = 0
    num_entries: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def extended(self, line: bytes, num_entries: int) -> BankJournal:
        """The same with a line more."""
        digest = self.digest.copy()
        digest.update(line)
        return BankJournal(self.file, self.num_bytes + len(line), self.num_entries + num_entries, digest)

    @property
    def entry(self) -> FileEntry:
        return FileEntry(self.file, self.num_bytes, self.digest.hexdigest())

    def is_outdated(self, num_valid: int) -> bool:
        """Whether so many of its entries are replaced by later ones that it is worth writing anew."""
        return self.num_entries > 2 * num_valid + SPARE_ENTRIES


def replay(entry: FileEntry, content: bytes) -> tuple[BankJournal, list[DocumentEntry], list[ShardEntry]]:
    """What a journal's content says after its last line. Raises ValueError where it is not what the entry names."""
    content = content[: entry.num_bytes]
    if len(content) < entry.num_bytes:
        raise ValueError(f"{entry.file} has {len(content)} bytes instead of {entry.num_bytes}")
    journal = BankJournal(entry.file).extended(content, 0)
    if journal.entry != entry:
        raise ValueError(f"the content of {entry.file} is not what was written")
    documents: dict[int, DocumentEntry] = {}
    shards: dict[str, ShardEntry] = {}
    num_entries = 0
    for number, line in enumerate(content.splitlines(), 1):
        record = typed(Record, json.loads(line), f"line {number} of {entry.file}")
        documents |= {document.info.id: document for document in record.documents}
        for name in record.dropped:
            shards.pop(name, None)
        shards |= {shard.file: shard for shard in record.shards}
        num_entries += record.num_entries
    return replace(journal, num_entries=num_entries), list(documents.values()), list(shards.values())
