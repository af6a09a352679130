"""One task's part of the page: what each method got, tables, differences from the first method, plots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ltm.bench import plots
from ltm.bench.page import Block, CellText, Heading, Paragraph, Picture, Table
from ltm.bench.pairing import Difference, Key, keyed_records, paired_difference
from ltm.bench.results import uneven_windows
from ltm.bench.tables import NOTHING, Line, Section, condition_text, headline, make_lines, number, tables
from ltm.tasks.base import Record, Task
from ltm.tasks.data import DataSource
from ltm.tasks.registry import task_class


@runtime_checkable
class Comparable(Protocol):
    """A task whose methods may have measured more or less of one thing: `common` cuts records, each with an id."""

    @staticmethod
    def common(records: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]: ...


def section_blocks(section: Section, look: Mapping[str, plots.Style], stem: str) -> Iterator[Block]:
    """Tables, plots and comparisons of one task."""
    own_look = {label: look[label] for label in section.labels}
    lines = section.lines()
    yield Heading(f"{section.task} on {section.backbone}")
    yield Paragraph(f"{task_class(section.task).source}. Configuration: {json.dumps(section.config)}.")
    yield _methods_table(section)
    yield from _uneven_windows(section)
    common = _common_lines(section)
    yield from _common_tables(section, common)
    for title, table in tables(lines, section.labels):
        yield Heading(title, 3)
        yield table
    yield from _comparisons(section, lines)
    yield from _pictures_along(section, lines, own_look, stem)
    yield from _pictures_of_cost(section, common or headline(lines), own_look, stem)


def _methods_table(section: Section) -> Table:
    """What each method was given and what it cost."""
    rows = []
    for label, results in section.by_label.items():
        facts = results[0].facts
        given = facts["setup"]["method"]["given"]
        speed = sum(r.facts["tokens"] for r in results) / max(sum(r.facts["seconds"] for r in results), 1e-9)
        per_token, peak = facts["bytes_per_token"], max(r.facts["process_peak_bytes"] or 0 for r in results)
        rows.append(
            [
                CellText(label),
                CellText(", ".join(f"{name}={value}" for name, value in given.items()) or "defaults"),
                CellText(", ".join(str(r.seed) for r in results if r.seed is not None) or "–"),
                NOTHING if per_token is None else CellText(f"{per_token:,.0f}"),
                CellText(f"{speed:,.0f}"),
                CellText(f"{peak / 1e9:.2f}"),
            ]
        )
    columns = ["method", "given", "seeds", "memory, bytes a token", "tokens a second", "process peak, GB"]
    return Table(columns, rows, left=3)


def _uneven_windows(section: Section) -> Iterator[Block]:
    """A warning where full windows keep more of the text for some methods than for others."""
    kept = uneven_windows(section.by_label[label][0] for label in section.labels)
    if kept:
        each = ", ".join(f"{label} {least:,}" for label, least in kept.items())
        yield Paragraph(
            f"Not like with like: a full window keeps more for some methods than for others (tokens kept: {each}). "
            "What they gain over the others is not memory alone; give all the same stride."
        )


def _common_tables(section: Section, lines: Sequence[Line] | None) -> Iterator[Block]:
    """The headline over what all methods measured, where some measured more than others (lines: else None)."""
    if lines == []:
        yield Paragraph("Some methods end before others, and no range of places was scored by all of them to its end.")
    for title, table in tables(lines or [], section.labels):
        yield Heading(f"{title}: what every method measured", 3)
        yield Paragraph("Some methods end before others; this table is over what all of them measured, like with like.")
        yield table


def _common_lines(section: Section) -> list[Line] | None:
    """The headline over what all methods measured; None where each of them measured all of it anyway."""
    task = task_class(section.task)
    records = {label: _records(section, label) for label in section.labels}
    if not isinstance(task, Comparable) or (common := task.common(records)) == records:
        return None
    made = _task(section)
    return headline(make_lines({label: [made.summarise(own)] for label, own in common.items()}))


def _records(section: Section, label: str) -> list[Record]:
    return [record for result in section.by_label[label] for record in result.records]


def _task(section: Section) -> Task:
    """The task itself, to sum records up; it touches no data."""
    chosen = task_class(section.task)
    return chosen(chosen.config_class(**section.config), DataSource(None), None)


def _comparisons(section: Section, lines: Sequence[Line]) -> Iterator[Block]:
    """Differences from the first method, example by example."""
    first, *others = section.labels
    pairs = [_pair(section, first, label) for label in others]
    rows = []
    for line in headline(lines):
        found = [paired_difference(base, other, line) for base, other in pairs]
        if any(found):
            names = [CellText(condition_text(value)) for _, value in line.condition]
            metric = CellText(line.metric.replace("_", " "))
            rows.append([*names, metric, *map(_difference_cell, found)])
    if rows:
        keys = headline(lines)[0].keys
        yield Heading(f"Difference from {first}", 3)
        yield Paragraph(
            f"Each method less {first} on the examples that both measured, drawn again together (bootstrap, 95%); bold "
            "where the interval leaves out 0."
        )
        yield Table([*keys, "metric", *others], rows, left=len(keys) + 1)


def _pair(section: Section, first: str, other: str) -> tuple[dict[Key, Record], dict[Key, Record]]:
    """The records of two methods by example, cut to what both measured where the task can tell."""
    task = task_class(section.task)
    if not isinstance(task, Comparable):
        return keyed_records(section.by_label[first]), keyed_records(section.by_label[other])
    common = task.common({label: _records(section, label) for label in (first, other)})
    base, against = ({(None, record["id"], 0): record for record in common[label]} for label in (first, other))
    return base, against


def _difference_cell(difference: Difference | None) -> CellText:
    if difference is None:
        return NOTHING
    text = f"{_signed(difference.value)} [{_signed(difference.low)}, {_signed(difference.high)}]"
    return CellText(f"{text}, n={difference.count}", bold=difference.is_clear)


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "−") + number(abs(value))


def _pictures_along(
    section: Section, lines: Sequence[Line], look: Mapping[str, plots.Style], stem: str
) -> Iterator[Picture]:
    """Quality along lengths and places, and by length and depth, as far as the conditions have these."""
    for (metric, keys), own in _grouped(lines).items():
        name = f"{stem}-{metric}"
        if {"length", "depth"} <= set(keys):
            caption = _caption(section, own, f"{metric.replace('_', ' ')} by length and depth")
            yield Picture(f"{name}-depth.png", plots.plot_heat(own, section.labels), caption)
            continue
        for axis in (key for key in keys if key in plots.AXES):
            panels = plots.panels_along(own, axis)
            if panels:
                shown = panels[: plots.MOST_PANELS]
                caption = _caption(section, own, _finding(own, axis), len(panels) - len(shown))
                yield Picture(f"{name}-{axis}.png", plots.plot_along(shown, axis, look), caption)


def _pictures_of_cost(
    section: Section, lines: Sequence[Line], look: Mapping[str, plots.Style], stem: str
) -> Iterator[Picture]:
    """Quality against bytes a token, where these are known of at least two methods."""
    cost = {label: own[0].facts["bytes_per_token"] for label, own in section.by_label.items()}
    if sum(value is not None for value in cost.values()) < 2:
        return
    for (metric, _), own in _grouped(lines).items():
        caption = _caption(
            section, own, f"{metric.replace('_', ' ')} against what memory takes", max(len(own) - plots.MOST_PANELS, 0)
        )
        yield Picture(f"{stem}-{metric}-bytes.png", plots.plot_cost(own, cost, look), caption)


def _grouped(lines: Sequence[Line]) -> dict[tuple[str, tuple[str, ...]], list[Line]]:
    grouped: dict[tuple[str, tuple[str, ...]], list[Line]] = {}
    for line in lines:
        grouped.setdefault((line.metric, line.keys), []).append(line)
    return grouped


def _finding(lines: Sequence[Line], axis: str) -> str:
    """Who is best how often, in words."""
    metric = lines[0].metric.replace("_", " ")
    winners = [line.best() for line in lines]
    counts = {label: sum(label in best for best in winners) for best in winners for label in best}
    if not counts:
        return f"{metric} by {axis}"
    first = max(counts, key=lambda label: counts[label])
    return f"{metric} by {axis}: {first} is best at {counts[first]} of {len(lines)} points"


def _caption(section: Section, lines: Sequence[Line], text: str, hidden: int = 0) -> str:
    values = [value for line in lines for value in line.values.values()]
    counts, seeds = sorted({value.count for value in values}), max(value.seeds for value in values)
    n = " to ".join(condition_text(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return f"{text}. {section.backbone}, n = {n} a point, {seeds} seed{'s' if seeds > 1 else ''}.{_hidden(hidden)}"


def _hidden(panels: int) -> str:
    return f" {panels} more panels are not drawn." if panels else ""
