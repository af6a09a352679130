"""Methods compared example by example: the difference over what both were asked, with a bootstrap interval.

Records of two methods are of the same example if they stand at the same place of the same unit. What is drawn anew in
the bootstrap are examples, each with all its records: the same question under several conditions or seeds is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ltm.bench.results import Result
from ltm.bench.tables import Line
from ltm.tasks.base import Record

RESAMPLES = 2000

Key = tuple[int | None, str, int]
"""Seed, unit, place in the unit."""


@dataclass(frozen=True)
class Difference:
    """A method's value less another's over the same `count` examples; low, high: 95% interval."""

    value: float
    low: float
    high: float
    count: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def keyed_records(results: Sequence[Result]) -> dict[Key, Record]:
    """The records of a method's results, so that others' can be found beside them."""
    return {
        (result.seed, entry.unit, place): record
        for result in results
        for entry in result.entries
        for place, record in enumerate(entry.records)
    }


def measured(record: Record, metric: str) -> tuple[float, float] | None:
    """What a record adds to a metric: a sum and what it is divided by; None where it tells nothing of it.

    By the names of its fields: nats and tokens make a perplexity; `correct` an accuracy, `x_correct` an x_accuracy;
    any other number has its metric's own name.
    """
    if metric == "perplexity" and record.get("tokens"):
        return float(record["nats"]), float(record["tokens"])
    field = metric.removesuffix("accuracy") + "correct" if metric.endswith("accuracy") else metric
    value = record.get(field)
    return (float(value), 1.0) if isinstance(value, (bool, int, float)) else None


def paired_difference(
    base: Mapping[Key, Record], other: Mapping[Key, Record], line: Line, seed: int = 0
) -> Difference | None:
    """other - base for one condition and metric; None where fewer than two examples are shared.

    The condition's names must be fields of the records. The same seed gives the same interval.
    """
    sums: dict[str, np.ndarray] = {}
    for key in base.keys() & other.keys():
        record = base[key]
        if any(record.get(name) != value for name, value in line.condition):
            continue
        ours, theirs = measured(record, line.metric), measured(other[key], line.metric)
        if ours is not None and theirs is not None:
            example = _example(record, key)
            sums[example] = sums.get(example, np.zeros(4)) + np.array([*ours, *theirs])
    if len(sums) < 2:
        return None
    data = np.stack([sums[example] for example in sorted(sums)])  # [examples, 4]
    share = np.full(len(data), 1 / len(data))
    counts = np.random.default_rng(seed).multinomial(len(data), share, size=RESAMPLES)  # [resamples, examples]
    low, high = np.quantile(_difference(counts @ data, line.metric), [0.025, 0.975])
    value = float(_difference(data.sum(axis=0)[None], line.metric)[0])
    return Difference(value, float(low), float(high), len(data))


def _difference(sums: np.ndarray, metric: str) -> np.ndarray:
    """Of sums [samples, 4]: base and its divisor, other and its divisor."""
    base, other = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
    return np.exp(other) - np.exp(base) if metric == "perplexity" else other - base


def _example(record: Record, key: Key) -> str:
    """What a record is of, without the condition: its set and example or id, else its place."""
    names = [str(record[name]) for name in ("dataset", "example", "id") if name in record]
    return "/".join(names) if len(names) > ("dataset" in record) else f"{key[1]}#{key[2]}"
