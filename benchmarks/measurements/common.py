"""What every benchmark script shares: kinds of text, a table on the terminal, a result file that explains itself."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ltm import console, facts
from ltm.console import notice

KINDS = ("books", "techdocs", "latex_math")
RESULTS = Path(__file__).parents[1] / "results"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table to stdout, numbers to the right, as wide as it must be."""
    console.results.print(console.make_table(None, header, rows), width=160)


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


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
