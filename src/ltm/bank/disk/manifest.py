"""The manifest of a bank on disk: what it is, and with its journal which files belong to it, and their checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.bank.config import BankConfig
from ltm.bank.disk.file_names import MANIFEST
from ltm.bank.disk.integrity import MOST_JOURNAL_BYTES, head_problems, manifest_problems
from ltm.bank.disk.journal import Journal, replay
from ltm.bank.disk.manifest_entries import DocumentEntry, FileEntry, MethodEntry, RowEntry, ShardEntry
from ltm.bank.disk.plain_files import read_plain
from ltm.bank.results import DocumentInfo
from ltm.decode_json import field_types, typed
from ltm.errors import BankCorruptError, BankError, ConfigError, LtmError

if TYPE_CHECKING:
    from ltm.backbone.fingerprint import Fingerprint

FORMAT = "ltm-bank"
VERSION = 3
"""2: storages, ranges of characters for each chunk instead of each token; 3: documents and shards in a journal, the
method's name."""
WHOLE_VERSION = 2
"""Still read: documents and shards lie in the manifest, nothing is known of the method."""


MOST_WORDS = 300
"""Characters of what is told about a damaged file."""


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
    position: Journal | None = field(default=None, compare=False, repr=False)

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


def has_bank(path: str | Path) -> bool:
    """Whether a directory holds a bank, damaged or not."""
    return os.path.lexists(Path(path) / MANIFEST)


def read_manifest(path: str | Path) -> Manifest:
    """What a bank on disk holds, without its entries.

    Raises BankError where there is none, BankCorruptError where its manifest or its journal is damaged.
    """
    path = Path(path)
    head, values = _read_head(path)
    try:
        return _whole(path, head, values)
    except BankCorruptError:
        if _read_head(path)[0].revision == head.revision:
            raise
    return read_manifest(path)  # it was saved anew while it was being read


def read_head(path: str | Path) -> Head:
    """What the manifest itself says, at a cost that no document adds to; raises as `read_manifest`."""
    return _read_head(Path(path))[0]


def damaged(file: Path, why: str) -> str:
    """What to tell about a file that is not as it was written."""
    return f"{file} is damaged: {_short(why)}; put back a copy of the bank, or read the texts again into a new one"


def _short(why: str) -> str:
    """The value that is wrong may be a long one."""
    return why if len(why) <= MOST_WORDS else f"{why[:MOST_WORDS]} ..."


def checksum(values: dict[str, Any]) -> str:
    """sha256 over the values in one fixed form."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_head(path: Path) -> tuple[Head, dict[str, Any]]:
    """The manifest, and its values as they stand there."""
    file = path / MANIFEST
    if not has_bank(path):
        raise BankError(f"there is no bank at {path} (no {MANIFEST} in it); make one with `ltm read FILE -o {path}`")
    try:
        values = _checked_values(_read_some(path, MANIFEST).decode("utf-8"))
        head = Head(**_typed(Head, values))
        _refuse(head_problems(head))
        return head, values
    except ConfigError as error:
        raise BankCorruptError(damaged(file, str(error))) from error
    except LtmError as error:
        raise BankError(f"{file} cannot be read: {_short(str(error))}") from error
    except OSError as error:
        raise BankError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise BankCorruptError(damaged(file, _word(error))) from error


def _whole(path: Path, head: Head, values: dict[str, Any]) -> Manifest:
    """With the documents and shards that the journal lists, or a manifest of version 2 itself."""
    file = path / (MANIFEST if head.journal is None else head.journal.file)
    known = {field.name: getattr(head, field.name) for field in fields(Head)}
    try:
        if head.journal is None:
            manifest = Manifest(**known, **{name: _listed(values, name) for name in ("documents", "shards")})
        else:
            content = _read_some(path, head.journal.file)
            position, documents, shards = replay(head.journal, content)
            manifest = Manifest(**known, documents=documents, shards=shards, position=position)
        _refuse(manifest_problems(manifest))
        return manifest
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise BankCorruptError(damaged(file, _word(error))) from error


def _checked_values(text: str) -> dict[str, Any]:
    """The fields of version 3, of a manifest of either version. Raises ValueError where it is damaged, BankError for a
    format of later versions."""
    values = json.loads(text)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError("it does not say that it is a bank's")
    version = values["version"]
    if version not in (VERSION, WHOLE_VERSION) or isinstance(version, bool):
        newer = isinstance(version, int) and version > VERSION
        way_out = "upgrade ltm" if newer else "read the texts again into a new bank"
        raise BankError(f"it has format {version}, this ltm reads {WHOLE_VERSION} and {VERSION}; {way_out}")
    if values.pop("checksum") != checksum(values):
        raise ValueError("its checksum does not agree with its content")
    return values if version == VERSION else {**values, "method": None, "journal": None}


def _typed(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass out of JSON values, each of its type."""
    hints = field_types(kind)
    plain = {name: typed(hint, values[name], name) for name, hint in hints.items() if name != "config"}
    return {**plain, "config": BankConfig.from_dict(typed(dict[str, Any], values["config"], "config"))}


def _listed(values: dict[str, Any], name: str) -> Any:
    return typed(field_types(Manifest)[name], values[name], name)


def _refuse(problems: Iterator[str]) -> None:
    problem = next(problems, None)
    if problem is not None:
        raise ValueError(problem)


def _read_some(path: Path, name: str) -> bytes:
    content = read_plain(path, name, MOST_JOURNAL_BYTES + 1)
    if len(content) > MOST_JOURNAL_BYTES:
        raise ValueError(f"it has more than {MOST_JOURNAL_BYTES} bytes")
    return content


def _word(error: Exception) -> str:
    """What is wrong, of an error that is not meant for users."""
    if isinstance(error, FileNotFoundError):
        return "it is missing"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
