"""ltm ask: generate with a memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltm.bank import Bank
from ltm.cli.read import tell_markup
from ltm.console import ask_patience, notice, print_json, write
from ltm.documents import iter_documents, read_text
from ltm.errors import LtmError
from ltm.outputs import check_output, write_output
from ltm.passages import Passage
from ltm.pipes import STDIN, is_stream, stream_name
from ltm.session import Answer, Session
from ltm.trace_page import KIND, is_trace_page, trace_page


def run_ask(
    bank: Path,
    question: str,
    trace: bool,
    plain: bool,
    sampling: dict[str, Any],
    as_json: bool,
    page: Path | None = None,
    **opening: Any,
) -> None:
    """One answer: streamed to stdout, passages to stderr; with --json all of it as one object; page: a file for
    `trace_page`."""
    if page is not None:
        check_output(page, is_trace_page, KIND)
    if question == STDIN:
        if is_stream(bank):
            raise LtmError(f"{stream_name(bank)} cannot be both the text and the question; give one of them itself")
        question = read_text(Path(STDIN)).rstrip("\n")
    session = open_session(bank, **opening)
    answer = session.continue_text if plain else session.ask
    made = answer(question, trace=trace, on_text=None if as_json else write, **sampling)
    if page is not None:
        write_output(page, trace_page(question, made), is_trace_page, KIND)
        notice(f"wrote {page}")
    if as_json:
        print_json(made.to_dict())
        return
    print()
    finish(made, trace)


def open_session(bank: Path, **opening: Any) -> Session:
    """A session on a memory that must exist, or on a text that is read first and not kept."""
    if not Bank.exists(bank) and not bank.is_file() and not is_stream(bank):
        raise LtmError(f"{bank} is no memory; make one with: ltm read FILES -o {bank}")
    if Bank.exists(bank):
        ask_patience(f"opening {bank}")
        return Session.open(bank, **opening)
    documents = list(iter_documents(bank))
    ask_patience(f"reading {bank}")
    session = Session.open(None, **opening)
    for document in documents:
        tell_markup(document)
        session.read(document.text, document.name)
    return session


def finish(made: Answer, trace: bool) -> None:
    """What is said after an answer, on stderr."""
    if trace:
        print_passages(made.passages)
    notice(f"{len(made.token_ids)} tokens, {made.tokens_per_second:.1f} tokens/s", style="dim")


def print_passages(passages: list[Passage]) -> None:
    """Passages with their place and weight, on stderr."""
    if not passages:
        notice("no remembered passage was used", style="dim")
    for number, passage in enumerate(passages, start=1):
        place = f"{passage.document or 'without a document'}"
        place += "" if passage.start is None else f" [{passage.start:,}-{passage.end:,}]"
        notice(f"[{number}] {place}  weight {passage.weight:.3f}", style="bold")
        notice("    " + " ".join(passage.text.split()))
