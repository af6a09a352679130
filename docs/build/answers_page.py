"""Fill docs/answers.md with figures from the result files: python docs/build/answers_page.py

The page's own words stay; what stands between `<!-- measured: NAME -->` and `<!-- end -->` is replaced by that table.
NAME is an experiment of the task `ask` ("ask", "ask-many"), or "KIND of NAME" for one kind of its questions
("two-hop of ask-planted"); "speed" is what benchmarks/measurements/ask_speed.py wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from commands import commands
from tables import DOCS, RESULTS, fill, grid

from ltm.bench.results import Result, read_results
from ltm.tasks.base import Row

PAGE = DOCS / "answers.md"
SHARES = {
    "holds_answer": "holds an answer",
    "exact_match": "exact",
    "recovered_share": "recovered share",
    "recall_at_1": "first passage",
    "recall_at_3": "among three",
    "recall_at_10": "among ten",
    "stale": "says what was",
    "answerable_auroc": "AUROC of confidence",
}
"""Columns in percent, with their intervals."""
FIGURES = {"f1": "F1", "gold_nats": "nats a token", "seconds": "seconds", "encoded_tokens": "tokens encoded"}
"""Columns that are plain means."""


def main(page: Path = PAGE, results: Path = RESULTS) -> None:
    names = re.findall(r"<!-- measured: (.+?) -->", page.read_text())
    fill(page, {name: partial(speed if name == "speed" else answers, name, results) for name in names})


def speed(name: str, results: Path) -> str:
    """How soon an answer starts, by tokens read."""
    found = json.loads((results / f"ask_{name}.json").read_text())
    rows = found["results"]
    lines = [[f"{value:,.2f}" if value < 10 else f"{value:,.0f}" for value in row.values()] for row in rows]
    return "\n\n".join([grid(list(rows[0]), lines), f"`{found['command']}`"])


def answers(name: str, results: Path) -> str:
    """The table of an experiment, arms one below another, of each text and length; below it the command."""
    kind, _, experiment = name.rpartition(" of ")
    found = [result for result in read_results(results / experiment) if result.task == "ask" and not result.failed]
    parts = [_table(result, kind or "all") for result in found]
    return "\n\n".join([*parts, *(f"`{line}`" for line in commands(found))])


def _table(result: Result, kind: str) -> str:
    rows = [row for row in result.rows if row.condition["kind"] == kind]
    metrics = [metric for metric in (*SHARES, *FIGURES) if any(row.metric == metric for row in rows)]
    names = [SHARES.get(metric) or FIGURES[metric] for metric in metrics]
    by_place: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        by_place.setdefault(_place(row), {})[row.metric] = row
    lines = [[_title(place, result), *_cells(own, metrics)] for place, own in by_place.items()]
    return grid(["what an answer has", *names, "questions"], lines)


def _place(row: Row) -> tuple[str, ...]:
    """Text, length where there are several, and arm."""
    length = row.condition.get("length")
    return (row.condition["text"], *([f"{length:,} tokens"] if length else []), row.condition["arm"])


def _title(place: Sequence[str], result: Result) -> str:
    *where, arm = place
    return f"{', '.join(where)}: {arm} (`{result.label}`)"


def _cells(own: dict[str, Row], metrics: Iterable[str]) -> list[str]:
    return [*(_shown(own.get(metric)) for metric in metrics), str(max(row.count for row in own.values()))]


def _shown(row: Row | None) -> str:
    if row is None:
        return "–"
    if row.metric in FIGURES:
        return f"{row.value:.2f}" if abs(row.value) < 100 else f"{row.value:,.0f}"
    interval = "" if row.low is None else f" ({row.low:.0%} to {row.high:.0%})"
    return f"{row.value:.0%}{interval}"


if __name__ == "__main__":
    main()
