"""The rows of `ask`: means by text, length, kind and arm, recovered shares, and how well confidence tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from ltm.tasks.base import Record, Row
from ltm.tasks.intervals import Interval, examples_interval

HIGHER = ("holds_answer", "exact_match", "f1", "gold_nats", "recall_at_1", "recall_at_3", "recall_at_10")
LOWER = ("stale", "seconds", "prompt_tokens", "encoded_tokens")
ALL_KINDS = "all"
RESAMPLES = 2000


def table(records: Sequence[Record], arms: Sequence[str]) -> list[Row]:
    """All rows, text by text; of several kinds each alone, after all together; of several lengths all together, after
    each alone."""
    rows = []
    for text, length, own in _groups(sorted(records, key=_text_of)):
        kinds = sorted({record["kind"] for record in own if record["answerable"]})
        for kind in dict.fromkeys([ALL_KINDS, *(kinds if len(kinds) > 1 else ())]):
            chosen = [record for record in own if kind in (ALL_KINDS, record["kind"])]
            condition = {"text": text, **({"length": length} if length else {}), "kind": kind}
            rows += list(_rows(chosen, condition, arms))
    return rows


def recovered_share(nothing: Sequence[float], arm: Sequence[float], gold: Sequence[float]) -> Interval | None:
    """(arm - none) / (gold - none) of values of the same questions, with the paired percentile bootstrap over them;
    None where gold is no better than nothing.

    >>> recovered_share([0, 0], [0, 1], [1, 1]).value
    0.5
    """
    values = np.array([nothing, arm, gold], dtype=np.float64)  # [3, questions]
    means = values.mean(axis=1)
    if means[2] <= means[0]:
        return None
    drawn = np.random.default_rng(0).integers(values.shape[1], size=(RESAMPLES, values.shape[1]))
    none, own, best = values[:, drawn].mean(axis=2)  # each [resamples]
    sound = best > none
    shares = (own[sound] - none[sound]) / (best[sound] - none[sound])
    low, high = np.quantile(shares, [0.025, 0.975])
    return Interval(float((means[1] - means[0]) / (means[2] - means[0])), float(low), float(high))


def auroc(answerable: Sequence[float], others: Sequence[float]) -> Interval:
    """How often a confidence in what can be answered is above one in what cannot, ties half; bootstrap over both.

    >>> auroc([0.9, 0.8], [0.1, 0.8]).value
    0.875
    """
    ours, theirs = np.asarray(answerable)[:, None], np.asarray(others)[None]
    above = (ours > theirs) + 0.5 * (ours == theirs)  # [answerable, others]
    random, shares = np.random.default_rng(0), []
    for _ in range(RESAMPLES // 4):  # each costs a matrix
        rows, columns = (random.integers(size, size=size) for size in above.shape)
        shares.append(above[rows][:, columns].mean())
    low, high = np.quantile(shares, [0.025, 0.975])
    return Interval(float(above.mean()), float(low), float(high))


def _text_of(record: Record) -> tuple[str, int]:
    return record["text"], record["length"] or 0


def _groups(records: Sequence[Record]) -> Iterator[tuple[str, int, list[Record]]]:
    """Text, length (0: it has none, or all of them) and records."""
    for text, of_text in groupby(records, key=lambda record: record["text"]):
        own = list(of_text)
        lengths = {length: list(group) for (_, length), group in groupby(own, key=_text_of)}
        for length, group in lengths.items():
            yield text, length, group
        if len(lengths) > 1:
            yield text, 0, own


def _rows(records: Sequence[Record], condition: dict[str, Any], arms: Sequence[str]) -> Iterator[Row]:
    by_arm = {arm: {_id(record): record for record in records if record["arm"] == arm} for arm in arms}
    for metric in (*HIGHER, *LOWER):
        for arm, own in by_arm.items():
            values = [float(r[metric]) for r in own.values() if r["answerable"] and r[metric] is not None]
            if values:
                where = {**condition, "arm": arm}
                yield Row(where, metric, *examples_interval(values), len(values), metric in HIGHER)
    for arm in arms:
        share = _share(by_arm, arm)
        if share is not None and arm not in ("none", "gold"):
            yield Row({**condition, "arm": arm}, "recovered_share", *share[0], share[1])
    for arm, own in by_arm.items():
        sure = {kind: [r["confidence"] for r in own.values() if r["answerable"] is kind] for kind in (True, False)}
        if all(sure.values()) and None not in (*sure[True], *sure[False]):
            count = len(sure[True]) + len(sure[False])
            yield Row({**condition, "arm": arm}, "answerable_auroc", *auroc(sure[True], sure[False]), count)


def _id(record: Record) -> tuple[str, str]:
    return record["reading"], record["example"]


def _share(by_arm: dict[str, dict[tuple[str, str], Record]], arm: str) -> tuple[Interval, int] | None:
    """An arm's recovered share over the questions that it, nothing and gold all have."""
    three = [by_arm.get(name, {}) for name in ("none", arm, "gold")]
    shared = [key for key in three[0] if all(key in own for own in three) and three[0][key]["answerable"]]
    if not shared:
        return None
    values = [[float(own[key]["holds_answer"]) for key in shared] for own in three]
    share = recovered_share(*values)
    return None if share is None else (share, len(shared))
