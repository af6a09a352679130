"""ltm ask: generate with a memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ltm.cli.declared import (
    AsJson,
    BankOrText,
    Device,
    Instruction,
    MaxTokens,
    MethodWithOptions,
    MinConfidence,
    NumPassages,
    OfMemory,
    Penalty,
    RecallFrom,
    Seed,
    SideNetPath,
    Temperature,
    method_options,
    new_app,
)
from ltm.cli.options import refuse
from ltm.cli.read import ReadBar, tell_markup
from ltm.configs import NUM_PASSAGES
from ltm.console import ask_patience, make_progress, notice, print_json, write
from ltm.data.documents import iter_documents, read_text
from ltm.data.pipes import STDIN, is_stream, stream_name
from ltm.errors import LtmError
from ltm.outputs import check_output, write_output

if TYPE_CHECKING:
    from ltm.data.passages import Passage
    from ltm.text.answer import Answer
    from ltm.text.session import Session
    from ltm.text.text_session import TextSession

app = new_app()


class _TracePage(TyperCommand):
    """Takes `--trace out.html` as `--trace --page out.html`: an option cannot have a value at will."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for place in range(min(end, len(args)) - 1, 0, -1):
            if args[place - 1] == "--trace" and args[place].lower().endswith((".html", ".htm")):
                args.insert(place, "--page")
        return super().parse_args(ctx, args)


@app.command(cls=_TracePage, epilog='Try: ltm ask moby.bank "Who is Queequeg?" --trace out.html')
def ask(
    context: typer.Context,
    bank: BankOrText,
    question: Annotated[str, typer.Argument(help="What to ask (- for stdin); with --continue, a text to go on from.")],
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Show the passages of memory that the answer used; --trace FILE.html writes a page of what each word "
            "of the answer used.",
        ),
    ] = False,
    page: Annotated[Path | None, typer.Option("--page", hidden=True)] = None,
    plain: Annotated[
        bool, typer.Option("--continue", help="Go on from the text as it stands, without a chat template.")
    ] = False,
    recall: RecallFrom = "both",
    passages: NumPassages = NUM_PASSAGES,
    instruction: Instruction = None,
    min_confidence: MinConfidence = 0.0,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    repetition_penalty: Penalty = 1.1,
    seed: Seed = None,
    backbone: OfMemory = None,
    sidenet: SideNetPath = None,
    method: MethodWithOptions = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question with a memory: passages of what was read that fit it, and the memory attached."""
    from ltm.text.trace_page import KIND, is_trace_page, trace_page

    if page is not None:
        check_output(page, is_trace_page, KIND)
    if plain:
        refuse("with --continue", ["recall", "passages", "instruction", "min_confidence"], context)
    question = _question(question, bank)
    session = open_session(bank, backbone=backbone, sidenet=sidenet, method=method, device=device)
    answer = session.continue_text if plain else session.ask
    traced, on_text = trace or page is not None, None if as_json else write
    sampling = sampling_options(max_tokens, temperature, repetition_penalty, seed)
    if not plain:
        sampling |= asking_options(recall, passages, instruction, min_confidence)
    made = answer(question, trace=traced, on_text=on_text, **sampling)
    if page is not None:
        write_output(page, trace_page(question, made), is_trace_page, KIND)
        notice(f"wrote {page}")
    if as_json:
        print_json(made.to_dict())
        return
    print()
    finish(made, traced)


def sampling_options(max_tokens: int, temperature: float, penalty: float, seed: int | None) -> dict[str, Any]:
    """The command line's options as `ltm.text.generation.Sampling` names them."""
    return {"max_new_tokens": max_tokens, "temperature": temperature, "repetition_penalty": penalty, "seed": seed}


def asking_options(recall: str, passages: int, instruction: str | None, min_confidence: float) -> dict[str, Any]:
    """The command line's options as `ltm.text.asking.Asking` names them."""
    return {
        "recall": recall,
        "num_passages": passages,
        "instruction": instruction,
        "min_confidence": min_confidence,
    }


def _question(text: str, bank: Path) -> str:
    """The question itself, or what stdin holds."""
    if text != STDIN:
        return text
    if is_stream(bank):
        raise LtmError(f"{stream_name(bank)} cannot be both the text and the question; give one of them itself")
    return read_text(Path(STDIN)).rstrip("\n")


def open_session(bank: Path, **opening: Any) -> Session | TextSession:
    """A session on a memory that must exist, or on a text that is read first and not kept."""
    from ltm.bank import Bank
    from ltm.notes.store import NoteStore
    from ltm.text import text_session

    opening |= method_options(opening["method"], opening["sidenet"])
    if Bank.exists(bank) or NoteStore.exists(bank):
        ask_patience(f"opening {bank}")
        return text_session.open_session(bank, **opening)
    if not bank.is_file() and not is_stream(bank):
        raise LtmError(f"{bank} is no memory; make one with: ltm read FILES -o {bank}")
    documents = list(iter_documents(bank))
    ask_patience(f"reading {bank}")
    session = text_session.open_session(None, **opening)
    with make_progress() as progress:
        bar = ReadBar(progress, sum(len(document.text) for document in documents))
        for document in documents:
            tell_markup(document)
            bar.start(document)
            session.read(document.text, document.name, progress=bar.update)
            bar.finish(document)
    return session


def finish(made: Answer, trace: bool) -> None:
    """What is said after an answer, on stderr."""
    if trace:
        print_uses(made)
    notice(f"{len(made.token_ids)} tokens, {made.tokens_per_second:.1f} tokens/s", style="dim")


def print_uses(made: Answer) -> None:
    """What an answer used, on stderr: passages in the window with the words that they moved, the one that moved most
    first, then those that attention to memory used."""
    for number, moved in enumerate(made.moved, start=1):
        notice(f"[{number}] in the window: {_place(moved.passage)}  {moved.nats:+.1f} nats", style="bold")
        notice("    " + " ".join(moved.passage.text.split()))
        notice(f"    it moved: {' '.join(moved.words) or 'no word'}", style="dim")
    if made.recalled and not made.moved:
        print_passages(made.recalled, "in the window: ")
    if made.passages and made.passages != made.recalled:
        print_passages(made.passages, "by attention: ", len(made.moved or made.recalled) + 1)
    elif not made.recalled:
        notice("no remembered passage was used", style="dim")


def print_passages(passages: list[Passage], what: str = "", first: int = 1) -> None:
    """Passages with their place and weight, on stderr."""
    for number, passage in enumerate(passages, start=first):
        notice(f"[{number}] {what}{_place(passage)}  weight {passage.weight:.3f}", style="bold")
        notice("    " + " ".join(passage.text.split()))


def _place(passage: Passage) -> str:
    place = f"{passage.document or 'without a document'}"
    return place + ("" if passage.start is None else f" [{passage.start:,}-{passage.end:,}]")
