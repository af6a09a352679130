"""The manifest of a bank on disk: what it is, and with its journal which files belong to it, and their checksums."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ltm.bank.config import BankConfig
from ltm.bank.disk.journal import BankJournal
from ltm.bank.disk.manifest_entries import DocumentEntry, FileEntry, RowEntry, ShardEntry
from ltm.bank.method_entry import MethodEntry
from ltm.bank.results import DocumentInfo

if TYPE_CHECKING:
    from ltm.backbone.fingerprint import Fingerprint

FORMAT = "ltm-bank"
VERSION = 3
"""2: storages, ranges of characters for each chunk instead of each token; 3: documents and shards in a journal, the
method's name."""
WHOLE_VERSION = 2
"""Still read: documents and shards lie in the manifest, nothing is known of the method."""


@dataclass(frozen=True)
class Head:
    """What the file manifest.json says.

    revision changes with every save; fingerprint_values is the fingerprint as plain values, None if the bank has none;
    key_center: base64 of little-endian float32 [layers, kv_heads, head_dim], or None; method: None where no method of
    this library wrote it; journal: where documents and shards are listed (None: in a manifest of version 2).
    """

    uuid: str
    revision: str
    library: str
    config: BankConfig
    layers: list[int]
    num_kv_heads: int
    head_dim: int
    dtype: str
    key_center: str | None
    backbone: str | None
    method: MethodEntry | None
    fingerprint_values: dict[str, Any] | None
    extra: dict[str, Any]
    next_document: int
    rows: list[RowEntry]
    journal: FileEntry | None

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The identity of the backbone that made the bank."""
        if self.fingerprint_values is None:
            return None
        from ltm.backbone.fingerprint import Fingerprint  # imports transformers: only where it is asked for

        return Fingerprint.from_dict(self.fingerprint_values)

    @property
    def vocab_size(self) -> int | None:
        """Of the backbone, where that is known."""
        return None if self.fingerprint_values is None else self.fingerprint_values.get("vocab_size")

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(row.num_tokens for row in self.rows)

    @property
    def num_chunks(self) -> int:
        """Chunks of all rows."""
        return sum(row.num_chunks for row in self.rows)

    def to_json(self) -> str:
        """The text of the file, with its own checksum."""
        own = {field.name: getattr(self, field.name) for field in fields(Head)}
        plain = {"format": FORMAT, "version": VERSION, **json.loads(json.dumps(own, default=asdict))}
        return json.dumps({**plain, "checksum": checksum(plain)}, indent=1, ensure_ascii=True)


@dataclass(frozen=True)
class Manifest(Head):
    """All that is known of a saved bank without opening its shards; `Bank.read_manifest` reads it."""

    documents: list[DocumentEntry]
    shards: list[ShardEntry]
    position: BankJournal | None = field(default=None, compare=False, repr=False)

    @property
    def document_infos(self) -> list[DocumentInfo]:
        """The documents in the order they were added."""
        return [document.info for document in self.documents]

    @property
    def files(self) -> list[ShardEntry | FileEntry]:
        """Every file of the bank but the manifest and its journal."""
        return [*self.shards, *(document.text for document in self.documents if document.text is not None)]

    @property
    def num_bytes(self) -> int:
        """Bytes of all these files."""
        return sum(file.num_bytes for file in self.files)


def checksum(values: dict[str, Any]) -> str:
    """sha256 over the values in one fixed form."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
