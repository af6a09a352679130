"""What every benchmark script shares: kinds of text, a table on the terminal, a result file that explains itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from ltm import console, facts
from ltm.console import notice
from ltm.plots import new_figure

KINDS = ("books", "techdocs", "latex_math")
RESULTS = Path(__file__).parents[1] / "results"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table to stdout, numbers to the right, as wide as it must be."""
    console.results.print(console.make_table(None, header, rows), width=160)


@contextmanager
def line_plot(name: str, title: str, folder: Path = RESULTS) -> Iterator[Any]:
    """Axes of matplotlib to draw labelled lines on, then written to FOLDER/NAME.png."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    yield axes
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / f"{name}.png", dpi=130)


def machine() -> dict[str, Any]:
    """What was measured on, and with what."""
    return {
        "date": date.today().isoformat(),
        "commit": facts.commit(),
        **facts.versions("torch", "transformers"),
        **facts.machine(),
    }


def write_result(name: str, result: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    program = f"python benchmarks/measurements/{Path(sys.argv[0]).name}"
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"command": facts.command(program), **result}, indent=2) + "\n")
    notice(f"wrote {file}")
