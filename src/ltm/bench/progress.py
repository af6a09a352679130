"""How a run goes on stderr: units as they are done, or without a terminal a line for each cell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltm.bench.results import Result
from ltm.bench.runner import Watch, Work
from ltm.console import format_seconds, make_progress, notice

if TYPE_CHECKING:
    from ltm.bench.records_file import Entry


class BenchBar(Watch):
    """Shows units with the rate and the time left."""

    def __init__(self) -> None:
        self.progress = make_progress(time_left=False)
        self.left = self.taken = 0
        self.seconds = 0.0

    def __enter__(self) -> BenchBar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def begin(self, work: Sequence[Work]) -> None:
        self.cells, self.index = len(work), 0
        self.left = sum(unit.cost for item in work for unit in item.missing)
        self.all = self.progress.add_task("all", total=max(self.left, 1))

    def start(self, cell: Work) -> None:
        self.index += 1
        total, missing = sum(unit.cost for unit in cell.units), sum(unit.cost for unit in cell.missing)
        name = f"{self.index}/{self.cells} {cell.cell.task.name} {cell.cell.method.label}"
        self.bar = self.progress.add_task(name, total=max(total, 1), completed=total - missing)
        self.started, self.had_missing = time.perf_counter(), bool(missing)

    def unit(self, cell: Work, entry: Entry) -> None:
        self.left -= entry.cost
        self.taken += entry.cost
        self.seconds += entry.seconds
        rate = self.taken / max(self.seconds, 1e-9)
        text = f"{rate:,.0f} tokens/s, {format_seconds(self.left / rate)} left" if rate else ""
        self.progress.advance(self.bar, entry.cost)
        self.progress.update(self.all, advance=entry.cost, detail=text)

    def end(self, cell: Work, result: Result) -> None:
        self.progress.remove_task(self.bar)
        facts, name = result.facts, f"{cell.cell.task.name}, {cell.cell.method.label}"
        seed = "" if result.seed is None else f", seed {result.seed}"
        if result.failed:
            left = sum(unit.cost for unit in cell.missing)
            self.left -= left
            self.progress.advance(self.all, left)
            notice(f"{name}{seed}: failed: {facts['error']}", style="red")
        elif self.had_missing:
            rate = facts["tokens_per_second"] or 0.0
            notice(f"{name}{seed}: {facts['tokens']:,} tokens in {format_seconds(facts['seconds'])}, {rate:,.0f}/s")
        else:
            notice(f"{name}{seed}: done before", style="dim")
