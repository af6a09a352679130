"""`ltm`: a command is looked up by name, and only its module is imported. Whatever needs torch is imported inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ltm.cli.declared import new_app

MODULES = {
    "read": "ltm.cli.read",
    "ask": "ltm.cli.ask",
    "chat": "ltm.cli.chat",
    "serve": "ltm.cli.serve",
    "keys": "ltm.cli.keys",
    "users": "ltm.cli.users",
    "mcp": "ltm.cli.mcp",
    "train": "ltm.cli.train",
    "methods": "ltm.cli.methods",
    "demo": "ltm.cli.demo",
    "new": "ltm.cli.new",
    "bank": "ltm.cli.bank",
    "eval": "ltm.cli.evaluate",
    "bench": "ltm.cli.bench",
}
"""Each command, or group of commands, and the module whose `app` it is."""


class _Commands(Mapping[str, Any]):
    """MODULES as commands, each imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        return typer.main.get_command(import_module(MODULES[name]).app)

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


class _LazyGroup(TyperGroup):
    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.commands: Any = _Commands()


app = new_app(
    help="Long-term memory for language models: read documents into a memory, then use it.",
    epilog="Try: ltm read moby.txt -o moby.bank",
    name="ltm",
    cls=_LazyGroup,
    no_args_is_help=True,
)


def _version(asked: bool) -> None:
    if asked:
        import ltm

        print(f"ltm {ltm.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
