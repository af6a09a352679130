"""ltm chat: a conversation with a memory, which remembers what was said."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm.cli.ask import asking_options, finish, open_session, print_uses, sampling_options
from ltm.cli.declared import (
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
    new_app,
)
from ltm.configs import NUM_PASSAGES
from ltm.console import notice, notices, shell_line, write
from ltm.data.pipes import is_stream, stream_name
from ltm.errors import LtmError

if TYPE_CHECKING:
    from ltm.text.answer import Answer
    from ltm.text.session import Session
    from ltm.text.text_session import TextSession

COMMANDS = {
    "/why": "what the last answer used",
    "/forget": "what was said so far is dropped: neither used any more nor kept",
    "/quit": "end (Ctrl-D too)",
}
_COMMAND = re.compile(r"/[a-z]+")

app = new_app()


@app.command(epilog="Try: ltm chat moby.bank")
def chat(
    bank: BankOrText,
    trace: Annotated[bool, typer.Option("--trace", help="Show the passages of memory that the answer used.")] = False,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep what was said in a saved memory.")] = True,
    recall: RecallFrom = "both",
    passages: NumPassages = NUM_PASSAGES,
    instruction: Instruction = None,
    min_confidence: MinConfidence = 0.0,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    repetition_penalty: Penalty = 1.1,
    seed: Seed = None,
    backbone: OfMemory = None,
    sidenet: SideNetPath = None,
    method: MethodWithOptions = None,
    device: Device = None,
) -> None:
    """Talk with a model that has a memory, a question a line; what was said is kept in a saved memory.

    /why shows the passages that the last answer used, /forget drops what was said so far, /quit or Ctrl-D ends. A
    document of the memory holds the whole conversation afterwards; `ltm bank delete` removes it.
    """
    if is_stream(bank):
        raise LtmError(f"{stream_name(bank)} is where questions come from; give the text as a file")
    session = open_session(bank, backbone=backbone, sidenet=sidenet, method=method, device=device)
    options = sampling_options(max_tokens, temperature, repetition_penalty, seed)
    talk = Chat(session, trace, options | asking_options(recall, passages, instruction, min_confidence))
    notice("Ask away. " + "; ".join(f"{name}: {meaning}" for name, meaning in COMMANDS.items()) + ".", style="dim")
    try:
        talk.run()
    finally:
        if keep:
            talk.save()


class Chat:
    """The turns so far and the last answer."""

    def __init__(self, session: Session | TextSession, trace: bool, options: dict[str, Any]):
        self.session, self.trace, self.options = session, trace, options
        self.history: list[dict[str, str]] = []
        self.last: Answer | None = None

    def run(self) -> None:
        """Line by line, to the end of stdin, /quit or Ctrl-C at the prompt."""
        while (line := _next_line()) is not None and line != "/quit":
            if _COMMAND.fullmatch(line):
                self._obey(line)
            elif line:
                self._answer(line)

    def save(self) -> None:
        """Take what was said into a saved memory, as a document of its own."""
        path = self.session.path
        if path is None or not self.history:
            return
        name = f"chat {datetime.now():%Y-%m-%d %H:%M:%S}"
        self.session.keep(self.history, name)
        notice(f"remembered as {name}; to forget it: {shell_line('ltm', 'bank', 'delete', path, name)}", style="dim")

    def _answer(self, question: str) -> None:
        try:
            made = self.session.ask(question, history=self.history, trace=True, on_text=write, **self.options)
        except KeyboardInterrupt:
            print()
            notice("stopped; this question and its answer are dropped", style="dim")
            return
        print()
        finish(made, self.trace)
        self.last = made
        self.history += [{"role": "user", "content": question}, {"role": "assistant", "content": made.text}]

    def _obey(self, command: str) -> None:
        if command == "/why" and self.last is not None:
            print_uses(self.last)
        elif command == "/why":
            notice("nothing was answered yet", style="dim")
        elif command == "/forget":
            self.history, self.last = [], None
            notice("forgotten: what was said so far", style="dim")
        else:
            notice(f"{command} is no command; there are: {', '.join(COMMANDS)}", style="dim")


def _next_line() -> str | None:
    """What a person types, or a pipe gives; None at the end."""
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            with suppress(ImportError):
                import readline  # noqa: F401  (input() edits its line with it)
            return input("> ").strip()
        if sys.stdin.isatty():
            notices.print("> ", end="", style="bold")
        line = sys.stdin.readline()
    except (EOFError, KeyboardInterrupt):
        print()
        return None
    return line.strip() if line else None
