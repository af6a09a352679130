"""What a run is to measure: tasks x methods x seeds, each combination a cell with files of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ltm.backbone import Backbone
from ltm.bench.results import RECORDS_SUFFIX
from ltm.bench.specs import Budget, MethodSpec, TaskSpec
from ltm.configs import range_problems, stride_problems
from ltm.errors import ConfigError
from ltm.methods import method_class
from ltm.tasks.base import Task, Unit
from ltm.tasks.data import DataSource
from ltm.tasks.registry import task_class

HASH_DIGITS = 12


@dataclass(frozen=True)
class Plan:
    """Everything that a run is told.

    window: local window of every method that has one; stride: tokens that leave it when it is full, None: what the
    task says (its class attribute `full_stride`: the whole window), else the method's default. budget: None leaves
    each method its default. seeds: for tasks whose config has a seed; the others are run once.
    """

    tasks: Sequence[TaskSpec]
    methods: Sequence[MethodSpec]
    backbone: Backbone
    data: DataSource
    window: int | None = None
    stride: int | None = None
    budget: Budget | None = None
    seeds: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        problems = [] if self.window is None else range_problems({"window": self.window})
        problems += [] if self.window is None else stride_problems(self.window, self.stride)
        problems += [f"seed={seed}; use 0 to 2**32 - 1" for seed in self.seeds if not 0 <= seed < 2**32]
        if problems:
            raise ConfigError(problems)

    def cells(self) -> list[Cell]:
        """All combinations, a task's together, so that a table is whole before the next one begins."""
        return [
            Cell(self, task, method, seed, (place, index))
            for place, task in enumerate(self.tasks)
            for seed in (self.seeds if has_seed(task) else (None,))
            for index, method in enumerate(self.methods)
        ]


@dataclass(frozen=True)
class Cell:
    """One method on one task with one seed (None: the task has none). order: place of task and method in the plan."""

    plan: Plan
    task: TaskSpec
    method: MethodSpec
    seed: int | None
    order: tuple[int, int]

    @property
    def name(self) -> str:
        """The stem of its files: task, label, and what else tells it from other cells of the same folder."""
        parts = [self.task.name, _file_name(self.method.label)]
        if self.budget_options:
            parts.append("-".join(f"{name}-{value}" for name, value in self.budget_options.items()))
        if self.seed is not None:
            parts.append(f"seed-{self.seed}")
        return ".".join(parts)

    def result_path(self, folder: Path) -> Path:
        return folder / f"{self.name}.json"

    def records_path(self, folder: Path) -> Path:
        return folder / f"{self.name}{RECORDS_SUFFIX}"

    @property
    def task_config(self) -> Any:
        return self.task.config(**({} if self.seed is None else {"seed": self.seed}))

    def make_task(self) -> Task:
        """The task with this cell's seed. Raises LtmError where its data are missing."""
        plan = self.plan
        return task_class(self.task.name)(self.task_config, plan.data, plan.backbone.tokenizer)

    @property
    def budget_options(self) -> dict[str, int]:
        """What the budget gives this method; {} where it gets none."""
        budget = self.plan.budget
        return {} if budget is None else budget.options(method_class(self.method.name).config_class)

    @property
    def options(self) -> dict[str, Any]:
        """The method's options: window, budget, then its own, which win."""
        return {**self._window_options(), **self.budget_options, **self.method.options}

    def _window_options(self) -> dict[str, int]:
        plan, config_class = self.plan, method_class(self.method.name).config_class
        if plan.window is None:
            return {}
        whole = plan.window if task_class(self.task.name).full_stride else None
        return config_class.with_window(plan.window, plan.stride or whole)

    def setup(self, units: Sequence[Unit], method_facts: dict[str, Any]) -> dict[str, Any]:
        """Everything that the records depend on: a run goes on only from records with the same."""
        backbone, spec = self.plan.backbone, self.method
        print_of = backbone.fingerprint
        return {
            "task": {"name": self.task.name, "config": asdict(self.task_config)},
            "units": {"count": len(units), "tokens": sum(unit.cost for unit in units), "hash": _hash_units(units)},
            "method": {"name": spec.name, "label": spec.label, "given": self.options, **method_facts},
            "backbone": {
                "name": _short_path(backbone.name),
                "architecture": print_of.architecture,
                "weights": print_of.weights[:HASH_DIGITS],
                "tokenizer": print_of.tokenizer and print_of.tokenizer[:HASH_DIGITS],
                "dtype": print_of.dtype,
            },
            "device": backbone.device.type,
            "seed": self.seed,
        }


def has_seed(task: TaskSpec) -> bool:
    """Whether a task's config has a seed, which the task was not told already."""
    names = {field.name for field in fields(task_class(task.name).config_class)}
    return "seed" in names and "seed" not in task.options


def _hash_units(units: Sequence[Unit]) -> str:
    """Tells other data, or another cut of the same, from these."""
    lines = "\n".join(f"{unit.cost} {unit.key}" for unit in units)
    return hashlib.sha256(lines.encode()).hexdigest()[:HASH_DIGITS]


def _file_name(label: str) -> str:
    """A label as part of a file name; one that had to be changed gets a few digits, so that no two become one."""
    plain = re.sub(r"[^\w=-]+", "-", label)
    return plain if plain == label else f"{plain.strip('-')}-{hashlib.sha256(label.encode()).hexdigest()[:4]}"


def _short_path(name: str) -> str:
    """A result file names no place of this machine."""
    return Path(name).name if Path(name).is_absolute() else name
