"""ltm bench: tasks x methods to result files, and these to a page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ltm.bench import Plan, Result, Watch, parse_budget, parse_methods, parse_tasks, run_plan, write_report
from ltm.bench.grids import headline, sections, tables
from ltm.bench.plan import has_seed
from ltm.cli.options import config_options
from ltm.console import (
    Interrupted,
    ask_patience,
    format_seconds,
    make_progress,
    next_step,
    notice,
    print_json,
    print_table,
    shown,
)
from ltm.errors import LtmError
from ltm.methods import method_class
from ltm.tasks.data import DataSource
from ltm.tasks.registry import TASKS

if TYPE_CHECKING:
    from ltm.bench.journal import Entry
    from ltm.bench.runner import Work

FAILED = 1
"""Exit code where a cell could not be measured."""


def run_bench(
    tasks: str,
    methods: str,
    settings: Sequence[str],
    out: Path,
    data: Path | None,
    backbone: str,
    dtype: str,
    window: int,
    stride: int | None,
    budget: str | None,
    seeds: Sequence[int],
    device: str | None,
    restart: bool,
    as_json: bool,
) -> int:
    """Check everything that can be checked at once, load the backbone, run; the exit code."""
    task_specs, method_specs = parse_tasks(tasks, settings), parse_methods(methods)
    limit, source = None if budget is None else parse_budget(budget), DataSource(data)
    if limit is not None and not any(limit.options(method_class(spec.name).config_class) for spec in method_specs):
        raise LtmError(f"--budget {budget}: none of the methods has a memory that it limits; leave it out")
    if seeds and not any(map(has_seed, task_specs)):
        raise LtmError("--seed: none of the tasks has a seed that is not set; leave it out")
    from ltm.backbone import load_backbone

    ask_patience(f"loading {backbone}")
    loaded = load_backbone(backbone, dtype=dtype, device=device)
    chosen = tuple(dict.fromkeys(seeds)) or (0,)
    plan = Plan(task_specs, method_specs, loaded, source, window, stride, limit, chosen)
    ask_patience("preparing tasks and methods")
    with BenchBar() as bar:
        try:
            results = run_plan(plan, out, restart=restart, watch=bar)
        except KeyboardInterrupt:
            raise Interrupted(f"{out} keeps what was done; the same command goes on from there") from None
    _print_results(results, as_json)
    notice(f"results are in {out}", style="dim")
    next_step("ltm", "bench", "report", out, "--out", "page.md")
    return FAILED if any(result.failed for result in results) else 0


def run_report(folder: Path, out: Path, title: str, as_json: bool) -> None:
    """Write the page and tell where it is."""
    markdown, page = write_report(folder, out, title)
    if as_json:
        print_json({"markdown": str(markdown), "html": str(page)})
        return
    print(shown(str(markdown)))
    print(shown(str(page)))


def run_tasks(as_json: bool) -> None:
    """The tasks there are, with their options."""
    described = [_describe(name) for name in sorted(TASKS)]
    if as_json:
        print_json(described)
        return
    print_table(None, ("task", "source"), [(task["name"], task["source"]) for task in described], left=2)
    for task in described:
        rows = [(f"{task['name']}.{key}", value["default"], value["help"]) for key, value in task["options"].items()]
        print_table(task["name"], ("--set", "default", "meaning"), rows, left=3)


def _describe(name: str) -> dict[str, Any]:
    options = config_options(TASKS[name].config_class)
    return {
        "name": name,
        "source": TASKS[name].source,
        "options": {option.name: {"default": option.default, "help": option.help} for option in options},
    }


class BenchBar(Watch):
    """Shows units as they are done, with the rate and the time left; without a terminal, a line for each cell."""

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


def _print_results(results: Sequence[Result], as_json: bool) -> None:
    """The headline of each task with methods as columns, or everything as JSON."""
    if as_json:
        print_json([{"file": str(result.path), **result.facts} for result in results])
        return
    for section in sections(results):
        for title, table in tables(headline(section.lines()), section.labels):
            rows = [[Text(cell.text, style="bold" if cell.bold else "") for cell in row] for row in table.rows]
            print_table(f"{section.task}: {title}", table.columns, rows, left=table.left)
