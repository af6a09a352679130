"""ltm bank: what a memory on disk holds, without loading a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ltm.bank import Bank, Manifest
from ltm.bank.disk.lock import WriteLock
from ltm.console import ask_patience, format_bytes, notice, print_json, print_table, shown
from ltm.documents import check_text
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
        "method": None if manifest.method is None else manifest.method.name,
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
    found = (
        [info for info in infos if info.name == document]
        or [info for info in infos if shown(info.name) == shown(document)]  # as `ltm bank list` prints it
        or [info for info in infos if str(info.id) == document]
    )
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
    left = _left_behind(bank)
    if as_json:
        print_json({**asdict(found[0]), "left_behind": left})
        return
    notice(f"removed {found[0].name}, {found[0].num_tokens:,} tokens")
    if left:
        notice(f"{left}; ltm bank rebuild reads the texts that are left into a new memory")


def _left_behind(bank: Bank) -> str:
    """What of a deleted document stays elsewhere in a bank, as its method says; "" where nothing does, or where nothing
    is known of its method."""
    from ltm.methods import METHODS

    method = bank.method
    return METHODS.card(method.name).deletion if method is not None and method.name in METHODS else ""


def run_verify(path: Path, as_json: bool) -> None:
    """Every checksum; a damaged file is an error that names it."""
    manifest = Bank.verify(path)
    if as_json:
        print_json({"bank": str(path), "files": len(manifest.files) + 1, "bytes": manifest.num_bytes, "whole": True})
    else:
        notice(f"{path} is whole: {len(manifest.files) + 1} files, {format_bytes(manifest.num_bytes)}")


def run_absent(path: Path, text: str, with_model: bool, as_json: bool, opening: dict[str, Any]) -> int:
    """Whether a text is gone from a memory: by search, by bytes and by the model's likelihood. Exit code 1: it is not.

    Without the model, remembered tokens are looked at through texts and bytes only.
    """
    check_text(text, "the text")
    Bank.verify(path)
    tokenizer = likelihood = None
    if with_model:
        from ltm.forgetting import likelihood_of
        from ltm.session import Session

        ask_patience(f"opening {path}")
        session = Session.open(path, **opening)
        tokenizer = session.tokenizer
        likelihood = likelihood_of(session, text)
    found = Bank.find_text(path, text, tokenizer)
    absent = not found and (likelihood is None or likelihood.is_forgotten)
    if as_json:
        facts = None if likelihood is None else {**asdict(likelihood), "gain_per_token": likelihood.gain_per_token}
        print_json({"bank": str(path), "absent": absent, "found": found, "likelihood": facts})
        return 0 if absent else 1
    notice(f"by search and by bytes: {'; '.join(found) if found else 'not there'}")
    if likelihood is None:
        notice("by the model: not looked at (--no-model)")
    else:
        tokens = likelihood.tokens
        sides = (likelihood.with_memory, likelihood.never_held, likelihood.without)
        notice(
            "by the model: {:.3f} nats a token; {:.3f} with a memory that never held it; {:.3f} without any".format(
                *(nats / tokens for nats in sides)
            )
        )
    unsure = not absent and all(place.startswith("perhaps") for place in found) and bool(found)
    verdict = "holds nothing of" if absent else "MAY STILL HOLD" if unsure else "STILL HOLDS"
    notice(f"{path} {verdict} this text")
    return 0 if absent else 1


def run_compact(path: Path, as_json: bool) -> None:
    """Write every shard anew, few and without what was evicted."""
    with WriteLock(path):
        before = Bank.read_manifest(path)
        Bank.load(path).save(path, compact=True)
        after = Bank.read_manifest(path)
    if as_json:
        print_json({"bank": str(path), "bytes_before": before.num_bytes, "bytes": after.num_bytes})
    else:
        sizes = f"{format_bytes(before.num_bytes)} in {len(before.files)} files"
        notice(f"{path}: {sizes} before, {format_bytes(after.num_bytes)} in {len(after.files)} files now")


def run_merge(paths: Sequence[Path], output: Path, memory_size: int | None, as_json: bool) -> None:
    """Several memories of one backbone as a new one; nothing is forgotten on the way unless asked for."""
    if Bank.exists(output):
        raise LtmError(f"{output} is there already; give a new place")
    banks = [Bank.load(path) for path in paths]
    most = max(sum(bank.num_tokens(row) for bank in banks) for row in range(banks[0].num_rows))
    limit = banks[0].config.memory_size
    size = memory_size or (None if limit is None else max(limit, most))
    merged = banks[0].empty_like(memory_size=size)
    passed_over = [name for bank in banks for name in merged.merge(bank)]
    merged.save(output)
    for name in passed_over:
        notice(f"{name} is in several; taken once")
    tokens = sum(merged.num_tokens(row) for row in range(merged.num_rows))
    if as_json:
        print_json({"bank": str(output), "tokens": tokens, "documents": [info.name for info in merged.documents]})
    else:
        notice(f"{output} holds {len(merged.documents)} documents, {tokens:,} tokens")
