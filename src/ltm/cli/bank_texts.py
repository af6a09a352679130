"""ltm bank export, import and rebuild: a memory out of its texts, for the same backbone or another."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ltm.bank import Bank
from ltm.bank.disk.lock import WriteLock
from ltm.bank.disk.texts import KeptText, is_export, kept_texts, read_kept_texts
from ltm.bank.storage import STORAGE_OPTIONS
from ltm.cli.read import check_kept
from ltm.console import ask_patience, make_progress, notice, print_json
from ltm.errors import LtmError
from ltm.methods.registry import method_class
from ltm.outputs import check_output, write_output
from ltm.pipes import is_stream
from ltm.session import DEFAULT_METHOD, Session

_KEPT = ("memory_size", *STORAGE_OPTIONS)
KIND = "texts of a memory, as `ltm bank export` writes them"


def run_export(path: Path, output: Path | None, as_json: bool) -> None:
    """One JSON line for each document, to a file or stdout."""
    if output is not None:
        check_output(output, is_export, KIND)
    lines = [kept.to_json() for kept in kept_texts(Bank.load(path))]
    text = "".join(f"{line}\n" for line in lines)
    if output is None:
        sys.stdout.write(text)
        return
    write_output(output, text, is_export, KIND)
    if as_json:
        print_json({"bank": str(path), "documents": len(lines), "file": str(output)})
    else:
        notice(f"wrote {len(lines)} documents of {path} to {output}")


def run_import(file: Path, output: Path, as_json: bool, opening: dict[str, Any]) -> None:
    """Read exported texts into a memory: of each what was remembered."""
    if not file.is_file() and not is_stream(file):
        raise LtmError(f"{file} does not exist; make it with: ltm bank export BANK -o {file}")
    _read_all(list(read_kept_texts(file)), output, as_json, opening)


def run_rebuild(path: Path, output: Path, as_json: bool, opening: dict[str, Any]) -> None:
    """Read the texts of one memory into another; its budget, storage, method and backbone where none are given."""
    if output.resolve() == path.resolve():
        raise LtmError(f"{output} is the memory that is to be rebuilt; give another place with -o")
    bank = Bank.load(path)
    if bank.num_rows > 1:
        raise LtmError(f"{path} has {bank.num_rows} rows, each a memory of its own; only one of one row is rebuilt")
    given = {name: value for name, value in opening.items() if value is not None}
    _read_all(list(kept_texts(bank)), output, as_json, _as_it_was(bank, given) | given)


def _as_it_was(bank: Bank, given: dict[str, Any]) -> dict[str, Any]:
    """What a bank is opened with, of that which the method knows that is to read its texts."""
    made = bank.method
    kept: dict[str, Any] = {"backbone": bank.backbone, "method": DEFAULT_METHOD if made is None else made.name}
    method, same_backbone = given.get("method", kept["method"]), "backbone" not in given
    known = {field.name for field in fields(method_class(method).config_class)}
    options = {name: getattr(bank.config, name) for name in (*STORAGE_OPTIONS, "memory_size") if name in known}
    if made is not None and method == made.name and same_backbone:
        options = made.options | options
        kept["sidenet"] = made.weights
    return {name: value for name, value in (kept | options).items() if value is not None}


def _read_all(texts: Sequence[KeptText], output: Path, as_json: bool, opening: dict[str, Any]) -> None:
    opening = {name: value for name, value in opening.items() if value is not None}
    with WriteLock(output), make_progress() as progress:
        ask_patience(f"opening {output}")
        session = Session.open(output, **opening)
        check_kept(session, output, {name: opening[name] for name in _KEPT if name in opening})
        task = progress.add_task("reading", total=sum(len(kept.text) for kept in texts), detail="")
        for kept in texts:
            progress.update(task, description=kept.name)
            if kept.ranges:
                session.read(kept.text, kept.name, ranges=kept.ranges)
            progress.update(task, advance=len(kept.text))
        session.save()
        documents = session.documents
    nothing = [kept.name for kept in texts if not kept.ranges]
    if nothing:
        notice(f"of {len(nothing)} documents nothing was remembered any more; they were left out")
    tokens = sum(info.num_tokens for info in documents)
    if as_json:
        method = session.method
        facts = {"bank": str(output), "backbone": method.backbone.name, "method": method.name}
        print_json({**facts, "documents": len(documents), "tokens": tokens, "left_out": nothing})
    else:
        notice(f"{output} holds {len(documents)} documents, {tokens:,} tokens, for {session.method.backbone.name}")
