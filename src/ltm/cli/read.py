"""ltm read: documents into a memory on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from ltm.cli.console import Interrupted, ask_patience, format_bytes, make_progress, notice, print_json
from ltm.documents import Document, iter_documents
from ltm.errors import LtmError

if TYPE_CHECKING:
    from ltm.bank import DocumentInfo
    from ltm.session import ReadProgress, Session


def run_read(
    files: Sequence[Path],
    output: Path,
    backbone: str | None,
    sidenet: Path | None,
    method: str,
    memory_size: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Look at all files, then open or make the memory and read them into it."""
    total_chars = _survey(files)
    from ltm.session import Session  # only now: what cannot be read is told at once

    options = {} if memory_size is None else {"memory_size": memory_size}
    ask_patience(f"opening {output}")
    session = Session.open(output, backbone, method, sidenet, device=device, **options)
    before = {info.id for info in session.documents if info.complete}
    started, results = time.perf_counter(), []
    with make_progress() as progress, _explain_interrupt(output):
        bar = ReadBar(progress, total_chars)
        for document in iter_documents(files):
            bar.start(document)
            info = session.read(document.text, document.name, progress=bar.update)
            results.append((info, info.id in before))
            bar.finish(document)
    _report(session, output, results, time.perf_counter() - started, as_json)


def _survey(files: Sequence[Path]) -> int:
    """Characters in all documents; raises before anything is written if one of them cannot be read."""
    total, names = 0, set()
    for document in iter_documents(files):
        if document.name in names:
            raise LtmError(
                f"two documents are called {document.name} ({document.source}); rename one, or read them apart"
            )
        names.add(document.name)
        total += len(document.text)
    return total


@contextmanager
def _explain_interrupt(output: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"{output} keeps what was saved; the same command goes on from there") from None


class ReadBar:
    """Progress over the characters of all documents, with tokens a second and the memory's bytes."""

    def __init__(self, progress: Progress, total_chars: int):
        self.progress = progress
        self.task = progress.add_task("reading", total=total_chars, detail="")
        self.done = self.tokens = 0
        self.started = time.perf_counter()

    def start(self, document: Document) -> None:
        self.before = self.tokens
        self.progress.update(self.task, description=document.name)

    def update(self, now: ReadProgress) -> None:
        self.tokens = self.before + now.tokens
        rate = self.tokens / max(time.perf_counter() - self.started, 1e-9)
        detail = f"{self.tokens:,} tokens  {rate:,.0f} tokens/s  {format_bytes(now.bank_bytes)}"
        self.progress.update(self.task, completed=self.done + now.chars, detail=detail)

    def finish(self, document: Document) -> None:
        self.done += len(document.text)
        self.progress.update(self.task, completed=self.done)


def _report(
    session: Session,
    output: Path,
    results: Sequence[tuple[DocumentInfo, bool]],
    seconds: float,
    as_json: bool,
) -> None:
    """What was read, to stdout as JSON or to stderr in words; what a user may not expect is said either way."""
    bank = session.method.bank
    assert bank is not None
    new = [info for info, known in results if not known]
    tokens = sum(info.num_tokens for info in new)
    for info, known in results:
        if known:
            notice(f"{info.name} is in {output} already; passed over")
        elif info.num_tokens < bank.config.chunk_size:
            notice(f"{info.name} is shorter than a chunk of {bank.config.chunk_size} tokens; kept as a short chunk")
    held = {info.id: info for info in session.documents}
    lost = sum(info.num_tokens - held[info.id].num_tokens for info in new if info.id in held)
    result: dict[str, Any] = {
        "bank": str(output),
        "documents": [{"name": i.name, "tokens": i.num_tokens, "new": not known} for i, known in results],
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "bank_tokens": bank.num_tokens(0),
        "bank_bytes": bank.nbytes,
    }
    if as_json:
        print_json(result)
    else:
        notice(
            f"read {len(new)} document{'s' * (len(new) != 1)}, {tokens:,} tokens in {seconds:.1f} s "
            f"({result['tokens_per_second']:,.0f} tokens/s); {output} holds {result['bank_tokens']:,} tokens, "
            f"{format_bytes(bank.nbytes)}{f', {lost:,} dropped' if lost else ''}"
        )
        notice(f'next: ltm ask {output} "..." --trace', style="dim")
