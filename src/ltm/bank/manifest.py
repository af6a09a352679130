"""The manifest of a bank on disk: what it is, which files belong to it, and their checksums."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from ltm.bank.config import BankConfig
from ltm.bank.hits import DocumentInfo
from ltm.bank.names import MANIFEST
from ltm.bank.sound import manifest_problems
from ltm.bank.typed import typed
from ltm.errors import BankCorruptError, BankError, ConfigError, LtmError

if TYPE_CHECKING:
    from ltm.backbone.fingerprint import Fingerprint

FORMAT = "ltm-bank"
VERSION = 2
"""2: storages, ranges of characters for each chunk instead of each token."""


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
class TextEntry:
    """A document's text in UTF-8."""

    file: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class DocumentEntry:
    """A document; text None: it was added without one."""

    info: DocumentInfo
    text: TextEntry | None


@dataclass(frozen=True)
class RowEntry:
    """A row: its chunks have slots from `first`; older ones in its shards were evicted. `next`: the next slot."""

    first: int
    next: int
    num_chunks: int
    num_tokens: int


@dataclass(frozen=True)
class Manifest:
    """All that is known of a saved bank without opening its shards; `Bank.read_manifest` reads it.

    revision changes with every save; fingerprint_values is the fingerprint as plain values, None if the bank has none;
    key_center: base64 of little-endian float32 [layers, kv_heads, head_dim], or None.
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
    fingerprint_values: dict[str, Any] | None
    extra: dict[str, Any]
    next_document: int
    documents: list[DocumentEntry]
    rows: list[RowEntry]
    shards: list[ShardEntry]

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The identity of the backbone that made the bank."""
        if self.fingerprint_values is None:
            return None
        from ltm.backbone.fingerprint import Fingerprint  # imports transformers: only where it is asked for

        return Fingerprint.from_dict(self.fingerprint_values)

    @property
    def document_infos(self) -> list[DocumentInfo]:
        """The documents in the order they were added."""
        return [document.info for document in self.documents]

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(row.num_tokens for row in self.rows)

    @property
    def num_chunks(self) -> int:
        """Chunks of all rows."""
        return sum(row.num_chunks for row in self.rows)

    @property
    def files(self) -> list[ShardEntry | TextEntry]:
        """Every file of the bank but the manifest."""
        return [*self.shards, *(document.text for document in self.documents if document.text is not None)]

    @property
    def num_bytes(self) -> int:
        """Bytes of all these files."""
        return sum(file.num_bytes for file in self.files)

    def to_json(self) -> str:
        """The text of the file, with its own checksum."""
        values = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps({**values, "checksum": _checksum(values)}, indent=1, ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` gave. Raises ValueError, KeyError or TypeError where it is damaged, BankError for a
        format of later versions."""
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError("it does not say that it is a bank's")
        if values["version"] != VERSION:
            newer = isinstance(values["version"], int) and values["version"] > VERSION
            way_out = "upgrade ltm" if newer else "read the texts again into a new bank"
            raise BankError(f"it has format {values['version']}, this ltm reads {VERSION}; {way_out}")
        if values.pop("checksum") != _checksum(values):
            raise ValueError("its checksum does not agree with its content")
        config, hints = BankConfig.from_dict(values["config"]), get_type_hints(cls)
        names = [field.name for field in fields(cls) if field.name != "config"]
        manifest = cls(config=config, **{name: typed(hints[name], values[name], name) for name in names})
        problem = next(manifest_problems(manifest), None)
        if problem is not None:
            raise ValueError(problem)
        return manifest


def has_bank(path: str | Path) -> bool:
    """Whether a directory holds a bank."""
    return (Path(path) / MANIFEST).is_file()


def read_manifest(path: str | Path) -> Manifest:
    """What a bank on disk holds, without its entries.

    Raises BankError where there is none, BankCorruptError where its manifest is damaged.
    """
    path = Path(path)
    file = path / MANIFEST
    if not has_bank(path):
        raise BankError(f"there is no bank at {path} (no {MANIFEST} in it); make one with `ltm read FILE -o {path}`")
    try:
        return Manifest.from_json(file.read_text(encoding="utf-8"))
    except ConfigError as error:
        raise BankCorruptError(damaged(file, str(error))) from error
    except LtmError as error:
        raise BankError(f"{file} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BankCorruptError(damaged(file, str(error))) from error
    except OSError as error:
        raise BankError(f"{file} cannot be read: {error.strerror or error}") from error


def damaged(file: Path, why: str) -> str:
    """What to tell about a file that is not as it was written."""
    return f"{file} is damaged: {why}; put back a copy of the bank, or read the texts again into a new one"


def _checksum(values: dict[str, Any]) -> str:
    """sha256 over the values in one fixed form."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
