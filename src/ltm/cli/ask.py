"""ltm ask and ltm chat: generate with a memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ltm.bank import Bank
from ltm.console import ask_patience, notice, notices, print_json, write
from ltm.documents import iter_documents
from ltm.errors import LtmError
from ltm.outputs import check_output, write_output
from ltm.passages import Passage
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


def run_chat(bank: Path, trace: bool, sampling: dict[str, Any], **opening: Any) -> None:
    """Questions from stdin, one a line, until an empty one; earlier turns stay in the prompt."""
    session = open_session(bank, **opening)
    notice("Ask away; an empty line or Ctrl-D ends it.", style="dim")
    history: list[dict[str, str]] = []
    while question := _next_question():
        made = session.ask(question, history=history, trace=trace, on_text=write, **sampling)
        print()
        finish(made, trace)
        history += [{"role": "user", "content": question}, {"role": "assistant", "content": made.text}]


def open_session(bank: Path, **opening: Any) -> Session:
    """A session on a memory that must exist, or on a text that is read first and not kept."""
    if not Bank.exists(bank) and not bank.is_file():
        raise LtmError(f"{bank} is no memory; make one with: ltm read FILES -o {bank}")
    if Bank.exists(bank):
        ask_patience(f"opening {bank}")
        return Session.open(bank, **opening)
    documents = list(iter_documents(bank))
    ask_patience(f"reading {bank}")
    session = Session.open(None, **opening)
    for document in documents:
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


def _next_question() -> str:
    notices.print("> ", end="", style="bold")
    try:
        return sys.stdin.readline().strip()
    except EOFError:
        return ""
