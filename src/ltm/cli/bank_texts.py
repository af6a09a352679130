"""ltm bank export, import and rebuild: a memory out of its texts, for the same backbone or another."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm.cli.declared import (
    AsJson,
    BankPath,
    Device,
    KeyStorage,
    MemorySize,
    MethodName,
    NewBank,
    OfMemory,
    SearchStorage,
    SideNetPath,
    ValueStorage,
    new_app,
)
from ltm.cli.read import check_kept
from ltm.console import ask_patience, make_progress, notice, print_json
from ltm.data.pipes import is_stream
from ltm.errors import LtmError
from ltm.outputs import check_output, write_output

if TYPE_CHECKING:
    from ltm.bank import Bank
    from ltm.bank.disk.texts import KeptText

KIND = "texts of a memory, as `ltm bank export` writes them"
_OPENING = ("backbone", "sidenet", "method", "device", "memory_size", "key_storage", "value_storage", "search_storage")
"""Options of a command that `Session.open` takes."""
_KEPT = _OPENING[4:]
"""Those that a memory keeps for good."""

app = new_app()


@app.command("export", epilog="Try: ltm bank export moby.bank -o moby.jsonl")
def export_texts(
    bank: BankPath,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")] = None,
    as_json: AsJson = False,
) -> None:
    """The texts of a memory as JSON lines, with the ranges of characters that are remembered."""
    from ltm.bank import Bank
    from ltm.bank.disk.texts import is_export, kept_texts

    if output is not None:
        check_output(output, is_export, KIND)
    lines = [kept.to_json() for kept in kept_texts(Bank.load(bank))]
    text = "".join(f"{line}\n" for line in lines)
    if output is None:
        sys.stdout.write(text)
        return
    write_output(output, text, is_export, KIND)
    if as_json:
        print_json({"bank": str(bank), "documents": len(lines), "file": str(output)})
    else:
        notice(f"wrote {len(lines)} documents of {bank} to {output}")


@app.command("import", epilog="Try: ltm bank import moby.jsonl -o moby.bank")
def import_texts(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `ltm bank export` wrote.")],
    output: NewBank,
    backbone: OfMemory = None,
    sidenet: SideNetPath = None,
    method: MethodName = None,
    memory_size: MemorySize = None,
    key_storage: KeyStorage = None,
    value_storage: ValueStorage = None,
    search_storage: SearchStorage = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Build a memory from exported texts: what was remembered of each."""
    opening = _given(locals())
    from ltm.bank.disk.texts import read_kept_texts

    if not file.is_file() and not is_stream(file):
        raise LtmError(f"{file} does not exist; make it with: ltm bank export BANK -o {file}")
    _read_all(list(read_kept_texts(file)), output, as_json, opening)


@app.command(epilog="Try: ltm bank rebuild moby.bank -o new.bank --method em_llm")
def rebuild(
    bank: BankPath,
    output: NewBank,
    backbone: OfMemory = None,
    sidenet: SideNetPath = None,
    method: MethodName = None,
    memory_size: MemorySize = None,
    key_storage: KeyStorage = None,
    value_storage: ValueStorage = None,
    search_storage: SearchStorage = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Build a memory from the texts of another, for another backbone or method; what is not given stays as it was."""
    opening = _given(locals())
    from ltm.bank import Bank
    from ltm.bank.disk.texts import kept_texts

    if output.resolve() == bank.resolve():
        raise LtmError(f"{output} is the memory that is to be rebuilt; give another place with -o")
    old = Bank.load(bank)
    if old.num_rows > 1:
        raise LtmError(f"{bank} has {old.num_rows} rows, each a memory of its own; only one of one row is rebuilt")
    _read_all(list(kept_texts(old)), output, as_json, _as_it_was(old, opening) | opening)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """What a command was told of how to open the memory that it makes."""
    return {name: values[name] for name in _OPENING if values[name] is not None}


def _as_it_was(bank: Bank, given: dict[str, Any]) -> dict[str, Any]:
    """What a bank is opened with, of that which the method knows that is to read its texts."""
    from dataclasses import fields

    from ltm.bank.storage import STORAGE_OPTIONS
    from ltm.configs import DEFAULT_METHOD
    from ltm.methods import method_class

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
    from ltm.bank.disk.lock import WriteLock
    from ltm.text.session import Session

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
