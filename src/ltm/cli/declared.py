"""Arguments and options that several commands have, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ltm.cli.options import config_options
from ltm.configs import BankFields
from ltm.errors import LtmError


def new_app(**settings: Any) -> typer.Typer:
    """A Typer app as all of them are: plain help, no completion, and tracebacks for mistakes of ours alone."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, **settings)


def _of_bank(name: str) -> Any:
    """An option of a bank, with the sentence that stands below its field."""
    (found,) = [option for option in config_options(BankFields) if option.name == name]
    return typer.Option(help=found.help)


def is_text_memory(path: Path) -> bool:
    """Whether a directory holds a memory of text, which has notes and no bank."""
    from ltm.notes.store import NoteStore

    return NoteStore.exists(path)


def _keeps_a_bank(path: Path) -> Path:
    if is_text_memory(path):
        raise LtmError(f"{path} remembers text and keeps no bank; read, ask, chat, bank list and bank delete know it")
    return path


def method_options(method: str | None, sidenet: Path | None) -> dict[str, Any]:
    """A session's arguments from --method NAME[@WEIGHTS][:key=value,...], as ltm bench takes it, and --sidenet."""
    if method is None:
        return {"method": None, "sidenet": sidenet}
    from ltm.bench.specs import parse_method

    spec = parse_method(method)
    return {"method": spec.name, "sidenet": spec.sidenet if sidenet is None else sidenet, **spec.options}


MemoryPath = Annotated[Path, typer.Argument(metavar="BANK", help="The directory of a memory.")]
BankPath = Annotated[Path, typer.Argument(metavar="BANK", help="The directory of a memory.", callback=_keeps_a_bank)]
BankOrText = Annotated[
    Path, typer.Argument(metavar="BANK", help="A memory, or a text that is read first, each time; -: stdin.")
]
NewBank = Annotated[Path, typer.Option("--output", "-o", metavar="BANK", help="The new memory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON to stdout.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the GPU if there is one.")]

OfMemory = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="A built-in name, hub id, directory or .gguf file; default: the memory's own, else smollm2-135m.",
    ),
]
BackboneName = Annotated[str, typer.Option("--backbone", help="A built-in name, hub id, directory or .gguf file.")]
SideNetPath = Annotated[
    Path | None, typer.Option("--sidenet", help="What `ltm train` wrote; default: the one shipped.")
]
MethodName = Annotated[
    str | None,
    typer.Option("--method", help="A name that `ltm methods` lists; default: the memory's own, else longmem."),
]
MethodWithOptions = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="A name that `ltm methods` lists, or NAME:key=value,... with its options; default: the memory's own, else "
        "longmem.",
    ),
]

MemorySize = Annotated[int | None, typer.Option(help="Most tokens of the new memory; default: as it was, or 65536.")]
KeyStorage = Annotated[str | None, _of_bank("key_storage")]
ValueStorage = Annotated[str | None, _of_bank("value_storage")]
SearchStorage = Annotated[str | None, _of_bank("search_storage")]

Temperature = Annotated[float, typer.Option(help="0: the likeliest token each time; 1: sample as the model believes.")]
Penalty = Annotated[
    float, typer.Option("--repetition-penalty", help="Above 1, what occurred already gets less likely.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="Most tokens of an answer.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same answer.")]

RecallFrom = Annotated[
    str,
    typer.Option(
        "--recall",
        metavar="both|text|memory|off",
        help="What of the past an answer has: passages put before the question, the memory attached, both, or neither.",
    ),
]
NumPassages = Annotated[
    int, typer.Option("--passages", help="Passages looked at; one more of their sentences than that is shown.")
]
Instruction = Annotated[
    str | None,
    typer.Option(
        help='What follows the question; default: "Answer in a few words taken from the text." below passages.'
    ),
]
MinConfidence = Annotated[
    float, typer.Option(help='Say "I don\'t know" where what was found is less likely than this to hold the answer.')
]
