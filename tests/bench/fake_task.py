"""A task without a model's work: records follow from unit and method alone, and units can be made to go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from ltm.methods import Method
from ltm.tasks.base import Record, Row, Task, Unit
from ltm.tasks.intervals import wilson_interval
from ltm.tasks.registry import TASKS


@dataclass(frozen=True)
class FakeConfig:
    """How many units."""

    units: int = 4
    """Units."""
    note: str | None = None
    """Changes nothing."""
    seed: int = 0
    """Shifts the answers."""


@dataclass
class Log:
    """What was run; before: called with method and unit first, to raise what it wants."""

    ran: list[tuple[str, str]]
    before: Callable[[str, str], None]


def make_fake(log: Log) -> type[Task]:
    """A task class that writes to `log`."""

    class Fake(Task):
        name = "fake"
        config_class = FakeConfig
        source = "nowhere"

        def units(self) -> Iterator[Unit]:
            for place in range(self.config.units):
                yield Unit(f"unit/{place}", 10, lambda method, place=place: self._run(method, place))

        def _run(self, method: Method, place: int) -> list[Record]:
            log.before(method.name, f"unit/{place}")
            log.ran.append((method.name, f"unit/{place}"))
            right = (place + self.config.seed + len(method.name)) % 3 > 0
            return [{"length": length, "example": f"e{place}", "correct": right} for length in (512, 1024)]

        def summarise(self, records: Sequence[Record]) -> list[Row]:
            rows = []
            for length in dict.fromkeys(record["length"] for record in records):
                own = [record["correct"] for record in records if record["length"] == length]
                rows.append(Row({"length": length}, "accuracy", *wilson_interval(sum(own), len(own)), count=len(own)))
            return rows

    return Fake


def add_fake(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Log:
    """Make the task known as `fake` for one test."""
    log = Log([], fields.get("before", lambda method, unit: None))
    monkeypatch.setitem(TASKS, "fake", make_fake(log))
    return log
