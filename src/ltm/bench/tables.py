"""The results of one task side by side: a value for each condition, metric and method, seeds taken together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltm.bench.page import CellText, Table
from ltm.bench.results import Result
from ltm.tasks.base import Row
from ltm.tasks.intervals import t_interval

NOTHING = CellText("–")

Condition = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Value:
    """One method under one condition. tokens: behind it, where the task says; seeds: runs of their own."""

    value: float
    low: float | None
    high: float | None
    count: int
    tokens: int | None
    seeds: int
    chance: float | None = None


@dataclass(frozen=True)
class Line:
    """A condition and metric, with the value of each method that has one."""

    condition: Condition
    metric: str
    higher_is_better: bool
    values: Mapping[str, Value]

    @property
    def keys(self) -> tuple[str, ...]:
        """The names in the condition."""
        return tuple(name for name, _ in self.condition)

    @property
    def compared(self) -> dict[str, Value]:
        """The methods that were measured on the most; one that ended before the others is not compared with them."""
        most = max((value.count, value.tokens or 0) for value in self.values.values())
        return {label: value for label, value in self.values.items() if (value.count, value.tokens or 0) == most}

    def best(self) -> set[str]:
        """Of the compared methods those with the best value as it is printed; none where all are alike."""
        printed = {label: float(number(value.value)) for label, value in self.compared.items()}
        top = (max if self.higher_is_better else min)(printed.values())
        best = {label for label, value in printed.items() if value == top}
        return best if len(best) < len(printed) else set()


@dataclass(frozen=True)
class Section:
    """Results that belong together: one task with one configuration on one backbone. by_label: in the order asked."""

    task: str
    backbone: str
    by_label: Mapping[str, Sequence[Result]]

    @property
    def labels(self) -> list[str]:
        return list(self.by_label)

    @property
    def results(self) -> list[Result]:
        return [result for results in self.by_label.values() for result in results]

    @property
    def config(self) -> dict[str, Any]:
        """The task's configuration."""
        return self.results[0].facts["setup"]["task"]["config"]

    def lines(self) -> list[Line]:
        """Every condition and metric in the order of the first method that has it."""
        return make_lines({label: [result.rows for result in results] for label, results in self.by_label.items()})


def sections(results: Sequence[Result]) -> list[Section]:
    """Results grouped by task, its configuration (seeds apart), data and backbone; failed ones are left out."""
    grouped: dict[str, list[Result]] = {}
    for result in results:
        if not result.failed:
            grouped.setdefault(_section_key(result), []).append(result)
    return [Section(own[0].task, own[0].backbone, _by_label(own)) for own in grouped.values()]


def make_lines(rows: Mapping[str, Sequence[Sequence[Row]]]) -> list[Line]:
    """Lines of the rows of each method, a list for each of its seeds."""
    found: dict[tuple[str, Condition], dict[str, list[Row]]] = {}
    for label, runs in rows.items():
        for row in (row for run in runs for row in run if row.value is not None):
            key = (row.metric, tuple(row.condition.items()))
            found.setdefault(key, {}).setdefault(label, []).append(row)
    return [
        Line(
            condition,
            metric,
            next(iter(own.values()))[0].higher_is_better,
            {label: _merged(same) for label, same in own.items()},
        )
        for (metric, condition), own in found.items()
    ]


def tables(lines: Sequence[Line], labels: Sequence[str]) -> list[tuple[str, Table]]:
    """A table with its title for each metric and set of condition names; methods are columns."""
    grouped: dict[tuple[str, tuple[str, ...]], list[Line]] = {}
    for line in lines:
        grouped.setdefault((line.metric, line.keys), []).append(line)
    return [(_title(metric, keys, own), _table(keys, own, labels)) for (metric, keys), own in grouped.items()]


def headline(lines: Sequence[Line]) -> list[Line]:
    """The lines with the shortest conditions: what stands first in a paper."""
    shortest = min((len(line.keys) for line in lines), default=0)
    return [line for line in lines if len(line.keys) == shortest]


def number(value: float) -> str:
    """Four digits that tell something: 12.34, 0.1234, 1234.

    >>> number(12.3456), number(0.5), number(1234.5)
    ('12.35', '0.500', '1234')
    """
    size = abs(value)
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:.{digits}f}"


def condition_text(value: Any) -> str:
    """A condition's value as tables and panels show it."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _merged(rows: Sequence[Row]) -> Value:
    """One run's row as it is; of several seeds the mean with Student's interval over them."""
    first = rows[0]
    value, low, high = (first.value, first.low, first.high) if len(rows) == 1 else t_interval([r.value for r in rows])
    tokens = [row.extra["tokens"] for row in rows if "tokens" in row.extra]
    seeds = first.extra.get("seeds", 1) if len(rows) == 1 else len(rows)
    count = sum(row.count for row in rows)
    return Value(value, low, high, count, sum(tokens) if tokens else None, seeds, first.extra.get("chance"))


def _table(keys: tuple[str, ...], lines: Sequence[Line], labels: Sequence[str]) -> Table:
    rows = []
    for line in lines:
        cells = [_cell(line, label) for label in labels]
        counts = sorted({value.count for value in line.values.values()})
        count = CellText(" to ".join(condition_text(count) for count in dict.fromkeys((counts[0], counts[-1]))))
        rows.append([*(CellText(condition_text(value)) for _, value in line.condition), *cells, count])
    return Table([*keys, *labels, "n"], rows, left=len(keys))


def _cell(line: Line, label: str) -> CellText:
    value = line.values.get(label)
    if value is None:
        return NOTHING
    interval = "" if value.low is None or value.high is None else f" [{number(value.low)}, {number(value.high)}]"
    mark = "" if label in line.compared else " †"
    return CellText(number(value.value) + interval + mark, label in line.best())


def _title(metric: str, keys: tuple[str, ...], lines: Sequence[Line]) -> str:
    direction = "higher" if lines[0].higher_is_better else "lower"
    by = f" by {' and '.join(keys)}" if keys else ""
    return f"{metric.replace('_', ' ')}{by} ({direction} is better)"


def _section_key(result: Result) -> str:
    setup = result.facts["setup"]
    config = {name: value for name, value in setup["task"]["config"].items() if name != "seed" or result.seed is None}
    units = setup["units"]["hash"] if result.seed is None else None
    return json.dumps([setup["task"]["name"], config, units, setup["backbone"]], sort_keys=True)


def _by_label(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by the method's label; where one label stands for several budgets, the budget is told too."""
    budgets: dict[str, set[str]] = {}
    for result in results:
        budgets.setdefault(result.label, set()).add(_budget(result))
    by_label: dict[str, list[Result]] = {}
    for result in results:
        alone = len(budgets[result.label]) == 1
        by_label.setdefault(result.label if alone else f"{result.label}, {_budget(result)}", []).append(result)
    return by_label


def _budget(result: Result) -> str:
    given = result.facts["budget"]["given"]
    units = {"memory_size": "tokens", "memory_bytes": "bytes"}
    return " and ".join(f"{value:,} {units[name]}" for name, value in given.items()) or "default memory"
