"""What the pages share: where things are, and a table in Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"


def grid(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Words to the left in the first column, figures to the right in the others."""
    header = list(header)
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill(page: Path, tables: Mapping[str, Callable[[], str]]) -> None:
    """Put each table where its page has `<!-- measured: NAME -->` ... `<!-- end -->`; the others are not made."""
    text = page.read_text()
    for name, table in tables.items():
        start = f"<!-- measured: {name} -->"
        if start in text:
            pattern = re.compile(re.escape(start) + ".*?<!-- end -->", re.DOTALL)
            body = f"{start}\n\n{table()}\n\n<!-- end -->"
            text = pattern.sub(lambda _, body=body: body, text)
    page.write_text(text)
