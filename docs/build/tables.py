"""What the pages share: where things are, and a table in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"


def grid(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Words to the left in the first column, figures to the right in the others."""
    header = list(header)
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
