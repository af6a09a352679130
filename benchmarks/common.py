"""What every benchmark script shares: kinds of text, a table on the terminal, a result file that explains itself."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

import ltm
from ltm import console
from ltm.console import notice

KINDS = ("books", "techdocs", "latex_math")
RESULTS = Path(__file__).parent / "results"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table to stdout, numbers to the right, as wide as it must be."""
    console.results.print(console.make_table(None, header, rows), width=160)


def grid(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@contextmanager
def line_plot(name: str, title: str, folder: Path = RESULTS) -> Iterator[Any]:
    """Axes of matplotlib to draw labelled lines on, then written to FOLDER/NAME.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    yield axes
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / f"{name}.png", dpi=130)
    plt.close(figure)


def machine() -> dict[str, Any]:
    """What was measured on, and with what."""
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "ltm": ltm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_result(name: str, result: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"command": _command(), **result}, indent=2) + "\n")
    notice(f"wrote {file}")


def _command() -> str:
    """The command line that ran, with file names in the place of this machine's paths."""
    words = [Path(word).name if os.sep in word else word for word in sys.argv[1:]]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def _commit() -> str:
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
    return run.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
