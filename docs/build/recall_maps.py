"""Recall of five keys by method, length and depth, from the result files: a table and a map."""

from __future__ import annotations

from pathlib import Path

from tables import grid

from ltm.bench.plots import plot_heat
from ltm.bench.results import Result, read_results
from ltm.bench.tables import make_lines
from ltm.tasks.comma_lists import numbers

FOLDERS = ("recall-sentences", "recall-far", "recall-farthest")
MORE_READINGS = "recall-trials"


def bench_results(folder: Path) -> list[Result]:
    found = read_results(folder) if folder.is_dir() and any(folder.glob("*.json")) else []
    return [result for result in found if not result.failed]


def heat_results(folder: Path) -> dict[str, dict[int, Result]]:
    """Of each method and length the result on keys in sentences of their own with the most readings."""
    found: dict[str, dict[int, Result]] = {}
    for name in (MORE_READINGS, *FOLDERS):
        for result in bench_results(folder / name):
            config = result.facts["setup"]["task"]["config"]
            for length in numbers(config["lengths"]) if config["variants"] == "sentences" else []:
                found.setdefault(result.label, {}).setdefault(length, result)
    return found


def recall_table(folder: Path) -> str:
    """Keys said, and keys that were the likeliest of ten, of all that were asked, by method and length."""
    by_label = heat_results(folder)
    lengths = sorted({length for own in by_label.values() for length in own})
    rows = []
    for label, own in sorted(by_label.items(), key=lambda item: (-len(item[1]), item[0])):
        cells = [f"`{label}`"]
        for length in lengths:
            known = [row for row in own[length].rows if row.condition.get("length") == length] if length in own else []
            totals = {row.metric: row for row in known if set(row.condition) == {"variant", "length"}}
            said, among = (totals.get(name) for name in ("accuracy", "choice_accuracy"))
            cells.append(
                f"{round(said.value * said.count)}, {round(among.value * among.count)} of {said.count}"
                if said is not None and among is not None
                else "–"
            )
        rows.append(cells)
    return grid(["keys said, likeliest of ten", *(f"{length:,} tokens" for length in lengths)], rows)


def recall_heat(folder: Path) -> bytes | None:
    """A map for each method; None without results."""
    rows = {
        label: [
            row
            for length, result in by_length.items()
            for row in result.rows
            if {"length", "depth"} <= set(row.condition) and row.condition["length"] == length
            if row.metric == "accuracy"
        ]
        for label, by_length in heat_results(folder).items()
    }
    labels = sorted((label for label, own in rows.items() if own), key=lambda label: (-len(rows[label]), label))
    return plot_heat(make_lines({label: [rows[label]] for label in labels}), labels) if labels else None
