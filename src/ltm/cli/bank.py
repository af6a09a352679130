"""ltm bank: what a memory on disk holds, without loading a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm.cli import bank_texts
from ltm.cli.declared import (
    AsJson,
    BankPath,
    Device,
    MemoryPath,
    MethodName,
    NewBank,
    OfMemory,
    SideNetPath,
    is_text_memory,
    new_app,
)
from ltm.cli.options import refuse
from ltm.console import ask_patience, format_bytes, notice, print_json, print_table, shown
from ltm.data.documents import check_text
from ltm.errors import LtmError

if TYPE_CHECKING:
    from ltm.bank import Bank, DocumentInfo, Manifest
    from ltm.text.forgetting import Likelihood

app = new_app(
    help="What is in saved memories; remove, prove, merge, move.",
    epilog="Try: ltm bank list moby.bank",
    no_args_is_help=True,
)


@app.command(epilog="Try: ltm bank info moby.bank")
def info(bank: BankPath, as_json: AsJson = False) -> None:
    """What a memory is: its backbone, size and settings."""
    from ltm.bank import Bank

    facts = describe(bank, Bank.read_manifest(bank))
    if as_json:
        print_json(facts)
        return
    lines = {
        **{name.replace("_", " "): value for name, value in facts.items() if name != "documents"},
        "documents": len(facts["documents"]),
        "tokens": f"{facts['tokens']:,}",
        "bytes": format_bytes(facts["bytes"]),
        "bytes per token": f"{facts['bytes_per_token']:,.0f}",
        "memory size": "no limit" if facts["memory_size"] is None else f"{facts['memory_size']:,} tokens",
    }
    print_table(None, ("", str(bank)), list(lines.items()), left=2)


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


@app.command("list", epilog="Try: ltm bank list moby.bank")
def list_documents(bank: MemoryPath, as_json: AsJson = False) -> None:
    """The documents in a memory."""
    infos = _documents(bank)
    if as_json:
        print_json([asdict(info) for info in infos])
        return
    rows = [(i.name, i.id, f"{i.num_tokens:,}", f"{i.num_chars:,}", "yes" if i.complete else "cut off") for i in infos]
    unit = "words" if is_text_memory(bank) else "tokens"
    print_table(None, ("document", "id", f"{unit} held", "characters", "whole"), rows)


@app.command(epilog="Try: ltm bank delete moby.bank moby.txt")
def delete(
    bank: MemoryPath,
    document: Annotated[str, typer.Argument(metavar="DOCUMENT", help="Name or id, as `ltm bank list` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Remove a document from a memory, its text included."""
    found = _named(document, _documents(bank), bank)
    of_text = is_text_memory(bank)
    left = _forget_text(bank, found) if of_text else _delete_document(bank, found)
    if as_json:
        print_json({**asdict(found), "left_behind": left})
        return
    notice(f"removed {found.name}, {found.num_tokens:,} {'words' if of_text else 'tokens'}")
    if left:
        notice(f"{left}; ltm bank rebuild reads the texts that are left into a new memory")


def _documents(path: Path) -> list[DocumentInfo]:
    """What a memory on disk holds, without loading a model."""
    from ltm.bank import Bank
    from ltm.text.text_session import TextSession

    return TextSession.open(path).documents if is_text_memory(path) else Bank.read_manifest(path).document_infos


def _delete_document(path: Path, document: DocumentInfo) -> str:
    """Delete from a bank; what of it stays elsewhere."""
    from ltm.bank import Bank
    from ltm.bank.disk.lock import WriteLock

    with WriteLock(path):
        bank = Bank.load(path)
        bank.delete_document(document.id)
        bank.save(path)
    return _left_behind(bank)


def _forget_text(path: Path, document: DocumentInfo) -> str:
    """Delete a source with all that was derived from it: nothing stays."""
    from ltm.text.text_session import TextSession

    TextSession.open(path).delete(document.id)
    return ""


def _named(document: str, infos: list[DocumentInfo], bank: Path) -> DocumentInfo:
    """The one document of a name, or else of an id."""
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
        raise LtmError(f"no document {document} in {bank}; it holds: {names}")
    return found[0]


def _left_behind(bank: Bank) -> str:
    """What of a deleted document stays elsewhere in a bank, as its method says; "" where nothing does, or where nothing
    is known of its method."""
    from ltm.methods import METHODS

    method = bank.method
    return METHODS.card(method.name).deletion if method is not None and method.name in METHODS else ""


@app.command(epilog='Try: ltm bank verify moby.bank --absent "Call me Ishmael"')
def verify(
    context: typer.Context,
    bank: BankPath,
    absent: Annotated[
        str | None, typer.Option("--absent", metavar="TEXT", help="Prove that this text is not in the memory.")
    ] = None,
    model: Annotated[bool, typer.Option("--model/--no-model", help="With --absent: ask the model as well.")] = True,
    backbone: OfMemory = None,
    sidenet: SideNetPath = None,
    method: MethodName = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Check every file of a memory against its checksum; with --absent, that a text is gone from it.

    Gone by search (texts, remembered tokens), by bytes (every file), and by the model's likelihood, beside a memory
    that never held it. Exit code 1: it is still there.
    """
    opening = {"backbone": backbone, "sidenet": sidenet, "method": method, "device": device}
    if absent is None:
        refuse("without --absent", [*opening, "model"], context)
        _verify_files(bank, as_json)
        return
    if not model:
        refuse("with --no-model", opening, context)
    raise typer.Exit(_verify_absence(bank, absent, opening if model else None, as_json))


def _verify_files(bank: Path, as_json: bool) -> None:
    """Every checksum; a damaged file is an error that names it."""
    from ltm.bank import Bank

    manifest = Bank.verify(bank)
    if as_json:
        print_json({"bank": str(bank), "files": len(manifest.files) + 1, "bytes": manifest.num_bytes, "whole": True})
    else:
        notice(f"{bank} is whole: {len(manifest.files) + 1} files, {format_bytes(manifest.num_bytes)}")


def _verify_absence(bank: Path, text: str, opening: dict[str, Any] | None, as_json: bool) -> int:
    """Whether a text is gone from a memory: by search, by bytes and by the model's likelihood. Exit code 1: it is not.

    opening: how the model is opened; None leaves it out, and remembered tokens are looked at through texts and bytes.
    """
    from ltm.bank import Bank

    check_text(text, "the text")
    Bank.verify(bank)
    tokenizer = likelihood = None
    if opening is not None:
        tokenizer, likelihood = _ask_model(bank, text, opening)
    found = Bank.find_text(bank, text, tokenizer)
    absent = not found and (likelihood is None or likelihood.is_forgotten)
    if as_json:
        facts = None if likelihood is None else {**asdict(likelihood), "gain_per_token": likelihood.gain_per_token}
        print_json({"bank": str(bank), "absent": absent, "found": found, "likelihood": facts})
    else:
        _tell_absence(bank, found, likelihood, absent)
    return 0 if absent else 1


def _ask_model(bank: Path, text: str, opening: dict[str, Any]) -> tuple[Any, Likelihood]:
    """The tokenizer, and how likely the model holds a text."""
    from ltm.text.forgetting import likelihood_of
    from ltm.text.session import Session

    ask_patience(f"opening {bank}")
    session = Session.open(bank, **opening)
    return session.tokenizer, likelihood_of(session, text)


def _tell_absence(bank: Path, found: list[str], likelihood: Likelihood | None, absent: bool) -> None:
    notice(f"by search and by bytes: {'; '.join(found) if found else 'not there'}")
    if likelihood is None:
        notice("by the model: not looked at (--no-model)")
    else:
        sides = (likelihood.with_memory, likelihood.never_held, likelihood.without)
        held, never_held, without = (nats / likelihood.tokens for nats in sides)
        notice(
            f"by the model: {held:.3f} nats a token; {never_held:.3f} with a memory that never held it; "
            f"{without:.3f} without any"
        )
    unsure = bool(found) and all(place.startswith("perhaps") for place in found)
    verdict = "holds nothing of" if absent else "MAY STILL HOLD" if unsure else "STILL HOLDS"
    notice(f"{bank} {verdict} this text")


@app.command(epilog="Try: ltm bank compact moby.bank")
def compact(bank: BankPath, as_json: AsJson = False) -> None:
    """Write a memory anew in as few files as can be, without anything that was forgotten."""
    from ltm.bank import Bank
    from ltm.bank.disk.lock import WriteLock

    with WriteLock(bank):
        before = Bank.read_manifest(bank)
        Bank.load(bank).save(bank, compact=True)
        after = Bank.read_manifest(bank)
    if as_json:
        print_json({"bank": str(bank), "bytes_before": before.num_bytes, "bytes": after.num_bytes})
    else:
        sizes = f"{format_bytes(before.num_bytes)} in {len(before.files)} files"
        notice(f"{bank}: {sizes} before, {format_bytes(after.num_bytes)} in {len(after.files)} files now")


@app.command(epilog="Try: ltm bank merge moby.bank omoo.bank -o both.bank")
def merge(
    banks: Annotated[list[Path], typer.Argument(metavar="BANKS...", help="Memories of one backbone.")],
    output: NewBank,
    memory_size: Annotated[
        int | None, typer.Option(help="Most tokens the new memory holds; default: enough for all of them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make one memory of several."""
    from ltm.bank import Bank

    if Bank.exists(output):
        raise LtmError(f"{output} is there already; give a new place")
    loaded = [Bank.load(path) for path in banks]
    most = max(sum(bank.num_tokens(row) for bank in loaded) for row in range(loaded[0].num_rows))
    limit = loaded[0].config.memory_size
    merged = loaded[0].empty_like(memory_size=memory_size or (None if limit is None else max(limit, most)))
    passed_over = [name for bank in loaded for name in merged.merge(bank)]
    merged.save(output)
    for name in passed_over:
        notice(f"{name} is in several; taken once")
    tokens = sum(merged.num_tokens(row) for row in range(merged.num_rows))
    if as_json:
        print_json({"bank": str(output), "tokens": tokens, "documents": [info.name for info in merged.documents]})
    else:
        notice(f"{output} holds {len(merged.documents)} documents, {tokens:,} tokens")


app.add_typer(bank_texts.app)
