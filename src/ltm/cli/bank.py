"""ltm bank: what a memory on disk holds, without loading a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ltm.bank import Bank, Manifest
from ltm.bank.lock import WriteLock
from ltm.cli.console import format_bytes, notice, print_json, print_table
from ltm.errors import LtmError


def run_info(path: Path, as_json: bool) -> None:
    """Backbone, sizes and settings."""
    facts = describe(path, Bank.read_manifest(path))
    if as_json:
        print_json(facts)
        return
    shown = {
        **{name.replace("_", " "): value for name, value in facts.items() if name != "documents"},
        "documents": len(facts["documents"]),
        "tokens": f"{facts['tokens']:,}",
        "bytes": format_bytes(facts["bytes"]),
        "bytes per token": f"{facts['bytes_per_token']:,.0f}",
        "memory size": "no limit" if facts["memory_size"] is None else f"{facts['memory_size']:,} tokens",
    }
    print_table(None, ("", str(path)), list(shown.items()), left=2)


def describe(path: Path, manifest: Manifest) -> dict[str, Any]:
    """The facts of `ltm bank info` as plain values."""
    return {
        "bank": str(path),
        "backbone": manifest.backbone,
        "dtype": manifest.dtype,
        "layers": list(manifest.layers),
        **manifest.config.to_dict(),
        "tokens": manifest.num_tokens,
        "bytes": manifest.num_bytes,
        "bytes_per_token": manifest.num_bytes / manifest.num_tokens if manifest.num_tokens else 0.0,
        "ltm_version": manifest.library,
        "documents": [info.name for info in manifest.document_infos],
    }


def run_list(path: Path, as_json: bool) -> None:
    """The documents, in the order they were read."""
    infos = Bank.read_manifest(path).document_infos
    if as_json:
        print_json([asdict(info) for info in infos])
        return
    rows = [(i.name, i.id, f"{i.num_tokens:,}", f"{i.num_chars:,}", "yes" if i.complete else "cut off") for i in infos]
    print_table(None, ("document", "id", "tokens held", "characters", "whole"), rows)


def run_delete(path: Path, document: str, as_json: bool) -> None:
    """Remove one document, found by name or else by id."""
    infos = Bank.read_manifest(path).document_infos
    found = [info for info in infos if info.name == document] or [info for info in infos if str(info.id) == document]
    if len(found) > 1:
        ids = ", ".join(str(info.id) for info in found)
        raise LtmError(f"{len(found)} documents are called {document}; give the id of one: {ids}")
    if not found:
        names = ", ".join(info.name for info in infos[:20]) or "nothing"
        raise LtmError(f"no document {document} in {path}; it holds: {names}")
    with WriteLock(path):
        bank = Bank.load(path)
        bank.delete_document(found[0].id)
        bank.save(path)
    if as_json:
        print_json(asdict(found[0]))
    else:
        notice(f"removed {found[0].name}, {found[0].num_tokens:,} tokens")


def run_verify(path: Path, as_json: bool) -> None:
    """Every checksum; a damaged file is an error that names it."""
    manifest = Bank.verify(path)
    if as_json:
        print_json({"bank": str(path), "files": len(manifest.files) + 1, "bytes": manifest.num_bytes, "whole": True})
    else:
        notice(f"{path} is whole: {len(manifest.files) + 1} files, {format_bytes(manifest.num_bytes)}")
