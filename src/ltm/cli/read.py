"""ltm read: documents into a memory on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from ltm.cli.declared import (
    AsJson,
    Device,
    KeyStorage,
    MethodWithOptions,
    OfMemory,
    SearchStorage,
    SideNetPath,
    ValueStorage,
    method_options,
    new_app,
)
from ltm.console import Interrupted, ask_patience, format_bytes, make_progress, next_step, notice, print_json
from ltm.data.documents import Document, Source, documents_of, find_sources
from ltm.data.html_text import looks_like_html
from ltm.errors import LtmError

QUESTION = "What is this about?"
DEFAULT_SIZE = 65_536
"""Tokens that a memory holds where nothing else is asked for."""

if TYPE_CHECKING:
    from ltm.bank import DocumentInfo
    from ltm.text.reading import ReadProgress
    from ltm.text.session import Session
    from ltm.text.text_session import TextSession


app = new_app()


@app.command(epilog="Try: ltm read moby.txt -o moby.bank")
def read(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES...", help="Files or folders of .txt, .md, .html, .jsonl, .jsonl.gz; - for stdin."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BANK", help="The memory: made, or added to.")],
    backbone: OfMemory = None,
    sidenet: SideNetPath = None,
    method: MethodWithOptions = None,
    memory_size: Annotated[
        int | None, typer.Option(help="Most tokens a new memory holds, the oldest leave first; default: 65536.")
    ] = None,
    piped_name: Annotated[
        str | None, typer.Option("--name", help="What a text from a pipe is called; as .html or .jsonl it is read so.")
    ] = None,
    key_storage: KeyStorage = None,
    value_storage: ValueStorage = None,
    search_storage: SearchStorage = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Read documents into a memory on disk.

    A read that is killed leaves what was complete; the same command goes on from there. Documents that the memory
    holds already are passed over.
    """
    sources = find_sources(files, piped_name)
    total_chars = _survey(sources)  # all of them, before anything is written
    from ltm.bank.disk.lock import WriteLock  # only now: what cannot be read is told at once
    from ltm.text.text_session import is_text_memory

    storages = {"key_storage": key_storage, "value_storage": value_storage, "search_storage": search_storage}
    given = {name: value for name, value in {"memory_size": memory_size, **storages}.items() if value is not None}
    opening = {"backbone": backbone, "device": device, **method_options(method, sidenet)}
    of_text = is_text_memory(output, opening["method"])  # which has transactions of its own, and needs no lock
    with nullcontext() if of_text else WriteLock(output):  # a second writer is told now, not after hours of reading
        ask_patience(f"opening {output}")
        session = _open(output, given, opening)
        _read_all(session, sources, output, total_chars, as_json)


def _open(output: Path, given: dict[str, Any], opening: dict[str, Any]) -> Session | TextSession:
    """The memory as it is, or a new one of the default size; given: sizes and storages that were asked for."""
    from ltm.bank import Bank
    from ltm.methods import method_class
    from ltm.text.session import method_of
    from ltm.text.text_session import is_text_memory, open_session

    default = {}
    if not Bank.exists(output) and not is_text_memory(output, opening["method"]):
        config = method_class(method_of(output, opening["method"])).config_class
        default = config.with_budget(tokens=DEFAULT_SIZE)
    session = open_session(output, **{**default, **opening, **given})
    check_kept(session, output, given)
    return session


def _read_all(
    session: Session | TextSession, sources: Sequence[Source], output: Path, total_chars: int, as_json: bool
) -> None:
    whole = {info.id: info.num_tokens for info in session.documents if info.complete}
    results = []
    with make_progress() as progress, _explain_interrupt(output):
        bar = ReadBar(progress, total_chars, "tokens" if session.method.speaks == "tokens" else "words")
        for document in documents_of(sources):
            bar.start(document)
            info = session.read(document.text, document.name, progress=bar.update)
            results.append((info, info.id not in whole))
            bar.finish(document)
    _report(session, output, results, sum(whole.values()) + bar.tokens, bar, as_json)


def check_kept(session: Any, output: Path, chosen: dict[str, Any]) -> None:
    """Raise LtmError where a memory is there already and was made with another size or storage than is asked for."""
    for name, asked in chosen.items():
        bank = session.method.bank
        has = asked if bank is None else getattr(bank.config, name)
        if has != asked:
            option = "--" + name.replace("_", "-")
            made = has or ("no limit" if name == "memory_size" else "as computed")
            raise LtmError(f"{output} was made with {option} {made}, not {asked}; leave {option} out, or read anew")


def _survey(sources: Sequence[Source]) -> int:
    """Characters in all documents; raises before anything is written if one of them cannot be read."""
    total, names = 0, set()
    for document in documents_of(sources):
        tell_markup(document)
        if document.name in names:
            raise LtmError(
                f"two documents are called {document.name} ({document.source}); rename one, or read them apart"
            )
        names.add(document.name)
        total += len(document.text)
    return total


def tell_markup(document: Document) -> None:
    """Say that a text is taken with its tags; a page that is called one is not."""
    if looks_like_html(document.text):
        notice(f"{document.source} looks like HTML and is taken as it stands, tags included; as .html its text is read")


@contextmanager
def _explain_interrupt(output: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"{output} keeps what was saved; the same command goes on from there") from None


class ReadBar:
    """Progress over the characters of all documents, with the memory's bytes and its units a second: tokens, or words
    where a memory is of text."""

    def __init__(self, progress: Progress, total_chars: int, unit: str = "tokens"):
        self.progress, self.unit = progress, unit
        self.task = progress.add_task("reading", total=total_chars, detail="")
        self.done = self.tokens = 0
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since reading began."""
        return max(time.perf_counter() - self.started, 1e-9)

    def start(self, document: Document) -> None:
        self.before = self.tokens  # read of earlier documents
        self.progress.update(self.task, description=document.name)

    def update(self, now: ReadProgress) -> None:
        self.tokens = self.before + now.tokens
        rate = self.tokens / self.seconds
        detail = f"{self.tokens:,} {self.unit}  {rate:,.0f} {self.unit}/s  {format_bytes(now.bank_bytes)}"
        self.progress.update(self.task, completed=self.done + now.chars, detail=detail)

    def finish(self, document: Document) -> None:
        self.done += len(document.text)
        self.progress.update(self.task, completed=self.done)


def _report(
    session: Session | TextSession,
    output: Path,
    results: Sequence[tuple[DocumentInfo, bool]],
    given: int,
    bar: ReadBar,
    as_json: bool,
) -> None:
    """What was read, to stdout as JSON or to stderr in words; what a user may not expect is said either way.

    results: each document and whether it is new; given: tokens that were held before and that came.
    """
    for info, new in results:
        if not new:
            notice(f"{info.name} is in {output} already; passed over")
    held, kept = _held_tokens(session, results, given) if bar.unit == "tokens" else _held_notes(session)
    rate, num_new = bar.tokens / bar.seconds, sum(new for _, new in results)
    if as_json:
        documents = [{"name": i.name, bar.unit: i.num_tokens, "new": new} for i, new in results]
        speed = {bar.unit: bar.tokens, "seconds": bar.seconds, f"{bar.unit}_per_second": rate}
        print_json({"bank": str(output), "documents": documents, **speed, **held})
        return
    notice(
        f"read {num_new} document{'s' * (num_new != 1)}, {bar.tokens:,} {bar.unit} in {bar.seconds:.1f} s "
        f"({rate:,.0f} {bar.unit}/s); {output} holds {held[f'bank_{kept}']:,} {kept}, "
        f"{format_bytes(held['bank_bytes'])}"
    )
    next_step("ltm", "ask", output, QUESTION, "--trace")


def _held_tokens(session: Any, results: Sequence[tuple[DocumentInfo, bool]], given: int) -> tuple[dict[str, int], str]:
    """What a bank holds now, and in what that is counted; what is short or was dropped is told."""
    bank = session.bank
    for info, new in results:
        if new and info.num_chars and info.num_tokens < bank.config.chunk_size:
            notice(f"{info.name} is shorter than a chunk of {bank.config.chunk_size} tokens; kept as a short chunk")
    dropped = max(given - bank.num_tokens(0), 0)
    if dropped:
        notice(
            f"the memory keeps {bank.config.memory_size:,} tokens, so the oldest {dropped:,} were dropped; "
            "to keep all, read into a new memory with a larger --memory-size"
        )
    size = bank.nbytes + bank.mapped_nbytes
    return {"dropped_tokens": dropped, "bank_tokens": bank.num_tokens(0), "bank_bytes": size}, "tokens"


def _held_notes(session: Any) -> tuple[dict[str, int], str]:
    """The same of a memory of text."""
    return {"bank_notes": len(session.memory[0].notes()), "bank_bytes": session.memory.nbytes}, "notes"
