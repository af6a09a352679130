"""Reading the manifest of a bank on disk, and its journal: which file is damaged or of another format is told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from ltm.bank.config import BankConfig
from ltm.bank.disk.file_names import MANIFEST
from ltm.bank.disk.integrity import MOST_JOURNAL_BYTES, head_problems, manifest_problems
from ltm.bank.disk.journal import replay
from ltm.bank.disk.manifest import FORMAT, VERSION, WHOLE_VERSION, Head, Manifest, checksum
from ltm.bank.disk.plain_files import read_plain
from ltm.decode_json import field_types, typed
from ltm.errors import BankCorruptError, BankError, ConfigError, LtmError

MOST_WORDS = 300
"""Characters of what is told about a damaged file."""


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
