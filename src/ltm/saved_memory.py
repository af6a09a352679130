"""Memories on disk that are no banks: plain values as JSON, tensors as safetensors, never a pickle.

A directory holds `memory.json` and one file of tensors, which it names with its checksum. The tensors are written
first, under a name of their own, then the JSON is renamed into place: whoever is killed on the way leaves what was
there before.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ltm.decode_json import typed
from ltm.errors import LtmError, error_line, short_repr

FACTS_FILE = "memory.json"
FORMAT = 1


def write_memory(path: str | Path, kind: str, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a memory of a kind to a directory, which may hold an earlier one. Raises LtmError where something else is
    there, or the disk refuses; what was there before is unchanged then.

    >>> write_memory("state", "recurrent", {"rows": 2}, {"memory": torch.zeros(2, 4, 8)})  # doctest: +SKIP
    """
    path = Path(path)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(held, metadata={"format": "pt"})
    digest = hashlib.sha256(content).hexdigest()
    file = f"memory-{digest[:16]}.safetensors"
    record = {"format": FORMAT, "kind": kind, "tensors": file, "sha256": digest, "facts": facts}
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check_free(path)
        _write(path / file, content)
        _write(path / FACTS_FILE, json.dumps(record, indent=2).encode() + b"\n")
    except OSError as error:
        raise LtmError(
            f"could not save to {path}: {error.strerror or error}; what was there before is unchanged"
        ) from error
    for old in path.glob("memory-*.safetensors"):
        if old.name != file:
            with suppress(OSError):
                old.unlink()


def read_memory(
    path: str | Path, kind: str, device: torch.device | str = "cpu"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and tensors of a saved memory of a kind. Raises LtmError where there is none, it is of another kind or
    damaged."""
    record = read_record(path)
    if record["kind"] != kind:
        raise LtmError(
            f"{path} holds a memory of kind {short_repr(record['kind'])}, not {kind}; open it with its method"
        )
    name = Path(record["tensors"]).name
    try:
        content = (Path(path) / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            raise LtmError(f"{Path(path) / name} is damaged (its checksum differs); restore it or read the text again")
        tensors = load(content)
    except (OSError, SafetensorError) as error:
        raise LtmError(f"{Path(path) / name} is damaged ({error_line(error)}); restore it or read again") from error
    return record["facts"], {name: tensor.to(device) for name, tensor in tensors.items()}


def read_record(path: str | Path) -> dict[str, Any]:
    """The JSON of a saved memory: its kind, facts and the name of its tensors. Raises LtmError as `read_memory`."""
    file = Path(path) / FACTS_FILE
    if not file.is_file():
        raise LtmError(f"{path} holds no saved memory ({FACTS_FILE} is missing); give a directory that save() wrote")
    try:
        record = typed(dict[str, Any], json.loads(file.read_text("utf-8")), "it")
        for name, hint in {"kind": str, "tensors": str, "sha256": str, "facts": dict[str, Any], "format": int}.items():
            typed(hint, record.get(name), f"its {name}")
    except (ValueError, RecursionError, OSError) as error:
        raise LtmError(f"{file} is damaged ({error_line(error)}); restore it or read the text again") from error
    if record["format"] != FORMAT:
        raise LtmError(
            f"{file} is of format {record['format']}, this version reads {FORMAT}; use the version that wrote it"
        )
    return record


def _check_free(path: Path) -> None:
    if not (path / FACTS_FILE).exists() and any(path.iterdir()):
        raise LtmError(f"{path} holds something else than a memory; save to another directory")


def _write(file: Path, content: bytes) -> None:
    beside = file.with_name(f".{file.name}.{uuid4().hex[:8]}")
    try:
        with open(beside, "xb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
