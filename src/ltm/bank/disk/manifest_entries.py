"""What a saved bank says of its parts: documents, files and rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ltm.bank.results import DocumentInfo
from ltm.decode_json import MAY_MISS


@dataclass(frozen=True)
class FileEntry:
    """A file, by its name relative to the bank; of a journal its first `num_bytes`, whatever a killed save added."""

    file: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardEntry:
    """An immutable safetensors file with consecutive chunks of one row: slots first to last, and whose they are."""

    file: str
    row: int
    first: int
    last: int
    num_chunks: int
    num_tokens: int
    documents: list[int]
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class DocumentEntry:
    """A document; text, in UTF-8: None where it was added without one; ranges: the characters of it that are to be
    remembered, None for all."""

    info: DocumentInfo
    text: FileEntry | None
    ranges: list[list[int]] | None = field(default=None, metadata=MAY_MISS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; without ranges where these are all, as before there were any."""
        plain = asdict(self)
        return plain if self.ranges is not None else {name: plain[name] for name in ("info", "text")}


@dataclass(frozen=True)
class RowEntry:
    """A row: its chunks have slots from `first`; older ones in its shards were evicted. `next`: the next slot."""

    first: int
    next: int
    num_chunks: int
    num_tokens: int
