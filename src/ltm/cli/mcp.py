"""ltm mcp: one user's memory for clients that speak the Model Context Protocol."""

from __future__ import annotations

from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ltm.cli.declared import Device, SideNetPath, new_app
from ltm.cli.serve import ConfigFile, DataDir, load_settings
from ltm.console import notice

app = new_app()


class Compat(str, Enum):
    """Whose tools."""

    ltm = "ltm"
    memory = "memory"
    files = "files"


@app.command(epilog="Try: ltm mcp --user me --data-dir ~/memory")
def mcp(
    user: Annotated[str, typer.Option(help="Whose memory it is; no tool can ask for another.")],
    data_dir: DataDir = None,
    namespace: Annotated[str, typer.Option(help="Which of the user's memories.")] = "default",
    config: ConfigFile = None,
    model: Annotated[
        str | None, typer.Option(help="The backbone that the memory is made with, as of ltm serve.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="longmem|text", help="What remembers, as of ltm serve; text needs the least.")
    ] = None,
    compat: Annotated[
        Compat,
        typer.Option(
            help="Tools of another server that clients know: memory, the graph of MCP's reference server, or files, "
            "Anthropic's memory tool; ltm: our own."
        ),
    ] = Compat.ltm,
    graph: Annotated[
        Path | None,
        typer.Option("--import", help="A memory.jsonl of the reference server, added first where it is not there yet."),
    ] = None,
    sidenet: SideNetPath = None,
    device: Device = None,
) -> None:
    """Serve one user's memory over MCP on stdin and stdout: search, add, update, delete, list, read the source.

    A client starts it by itself: {"command": "ltm", "args": ["mcp", "--user", "me"]}. It owns the data directory while
    it runs, as a server does.
    """
    settings = load_settings(config, data_dir=data_dir, model=model, memory=memory, sidenet=sidenet, device=device)
    from ltm.serve.running import run_mcp

    told = partial(notice, f"memory of {user} is open on stdin and stdout")
    run_mcp(settings, user, namespace, told, compat.value, graph)
