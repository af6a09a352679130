"""ltm demo: the main job on a document that every Python carries."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from ltm.cli.declared import AsJson, BackboneName, SideNetPath, new_app
from ltm.configs import DEFAULT_BACKBONE
from ltm.console import ask_patience, format_seconds, print_json, results

app = new_app()


@app.command(epilog="Try: ltm demo")
def demo(
    backbone: BackboneName = DEFAULT_BACKBONE,
    sidenet: SideNetPath = None,
    tokens: Annotated[int, typer.Option(help="Most tokens of the document to read; fewer on a slow machine.")] = 24576,
    window: Annotated[int, typer.Option(help="Local window in tokens, of window and longmem alike.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Read a long document that every Python carries, and show what its memory is good for."""
    from ltm.cli import demo_steps
    from ltm.text.session import Session

    demo_steps.check_tokens(tokens)
    started = time.perf_counter()
    ask_patience(f"loading {backbone} (the first time it is downloaded and converted)")
    session = Session.open(None, backbone, sidenet=sidenet, local_window=window, stride=window)
    figures = demo_steps.Figures(backbone, window)
    for view in demo_steps.Demo(session, tokens, figures).views():
        if not as_json:
            results.print(*view)
    figures.seconds = time.perf_counter() - started
    if as_json:
        print_json(asdict(figures))
        return
    results.print(
        Text(f"Everything above was measured in this run, in {format_seconds(figures.seconds)}.", style="dim")
    )
