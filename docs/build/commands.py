"""The short command behind a result file: `ltm bench run NAME` of the experiment that asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from tables import ROOT

from ltm.bench import Experiment, Plan, Result, read_experiment
from ltm.bench.experiments import EXPERIMENTS


def commands(results: Iterable[Result]) -> list[str]:
    """Of each result, once, in their order; the whole command where no experiment asks for a result."""
    names = experiments_by_file()
    return list(dict.fromkeys(_command(result, names) for result in results))


def _command(result: Result, names: Mapping[Path, str]) -> str:
    return f"ltm bench run {names[result.path]}" if result.path in names else result.facts["command"]


@cache
def experiments_by_file() -> dict[Path, str]:
    """The name of the experiment by each result file that it asks for."""
    found = {}
    for file in sorted((ROOT / EXPERIMENTS).glob("*.toml")):
        found |= dict.fromkeys(result_files(read_experiment(str(file))), file.stem)
    return found


def result_files(experiment: Experiment) -> list[Path]:
    """The files that a run of an experiment writes, in this checkout."""
    window, stride, seeds = experiment.window, experiment.stride, experiment.seeds or (0,)
    plan = Plan(experiment.task_specs(), experiment.method_specs(), None, None, window, stride, seeds=seeds)  # type: ignore[arg-type]
    assert experiment.out is not None
    return [cell.result_path(ROOT / experiment.out) for cell in plan.cells()]
