"""ltm chat: a conversation with a memory, which remembers what was said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm.cli.ask import asking_options, open_session, sampling_options
from ltm.cli.chat_loop import Chat
from ltm.cli.declared import (
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
from ltm.cli.options import refuse
from ltm.configs import NUM_PASSAGES
from ltm.console import notice
from ltm.data.pipes import is_stream, stream_name
from ltm.errors import LtmError

if TYPE_CHECKING:
    from ltm.cli.chat_partner import Partner

LOCAL = ("recall", "passages", "instruction", "min_confidence", "backbone", "sidenet", "method", "device")
"""Options of the model that runs here."""

app = new_app()


@app.command(epilog="Try: ltm chat moby.bank")
def chat(
    context: typer.Context,
    bank: Annotated[
        Path | None,
        typer.Argument(metavar="[BANK]", help="A memory, or a text that is read first, each time.", show_default=False),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Talk with this server and its memory of you, in place of BANK.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="LTM_API_KEY", help="A key of the server's; better in the environment, where nobody sees it."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON to stdout for each question and command, for scripts.")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Show the passages of memory that the answer used.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep what was said, in a saved memory or the server's.")
    ] = True,
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
    """Talk with a model that has a memory, a question a line; what was said is kept.

    BANK is a memory or a text, with a model that runs here; --server is one that runs there. /help tells the commands:
    what is remembered, what the last answer used, and how to forget it. Ctrl-C stops an answer, Ctrl-D ends. A document
    of a saved memory holds the whole conversation afterwards; `ltm bank delete` removes it.
    """
    sampling = sampling_options(max_tokens, temperature, repetition_penalty, seed)
    if server is not None and bank is None:
        refuse("with --server", LOCAL, context)
        partner = _remote(server, key, sampling, keep)
    elif server is None and bank is not None:
        opening = {"backbone": backbone, "sidenet": sidenet, "method": method, "device": device}
        asking = asking_options(recall, passages, instruction, min_confidence)
        partner = _local(bank, opening, sampling | asking, keep)
    else:
        raise LtmError("give a memory or a text to talk about, or --server URL; see: ltm chat --help")
    talk = Chat(partner, trace, as_json)
    if not as_json:
        notice("Ask away. /help tells the commands.", style="dim")
    try:
        talk.run()
    finally:
        partner.end(talk.history)


def _local(bank: Path, opening: dict[str, Any], options: dict[str, Any], keep: bool) -> Partner:
    if is_stream(bank):
        raise LtmError(f"{stream_name(bank)} is where questions come from; give the text as a file")
    from ltm.cli.chat_local import LocalPartner

    return LocalPartner(open_session(bank, **opening), options, keep)


def _remote(server: str, key: str | None, sampling: dict[str, Any], keep: bool) -> Partner:
    from ltm.cli.chat_remote import RemotePartner

    if not key:
        raise LtmError("a server wants to know who you are; give --key, or LTM_API_KEY in the environment")
    names = {"max_new_tokens": "max_completion_tokens"}
    options = {names.get(name, name): value for name, value in sampling.items() if value is not None}
    return RemotePartner(server, key, options, keep)
