"""Experiments have names: what `ltm bench run` is told, kept as a file `benchmarks/experiments/NAME.toml`.

    about = "Perplexity by local window"          # one sentence
    out = "benchmarks/results/window-256"         # folder of result files
    data = "data"                                 # folder of data sets; left out: public ones by name
    tasks = ["long_text"]
    methods = ["window", "longmem:use_memory=False as memory off"]
    window = 256

    [set.long_text]                               # options of a task, as `--set long_text.documents=2`
    documents = 2
    kinds = ["books", "techdocs"]

The names are those of the command's options. Paths are relative to the folder that the command is run in.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ltm.bench.specs import MethodSpec, TaskSpec, parse_methods, parse_tasks
from ltm.configs import DEFAULT_BACKBONE
from ltm.errors import ConfigError, LtmError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXPERIMENTS = Path("benchmarks", "experiments")
"""Where the named ones are, in a checkout of the repository; an installed package has none."""


@dataclass(frozen=True)
class Experiment:
    """What a run is told, as text: the options of `ltm bench run` by their names. Nothing is looked up yet."""

    about: str = ""
    out: str | None = None
    data: str | None = None
    tasks: Sequence[str] = ("long_text",)
    methods: Sequence[str] = ("window", "full", "longmem")
    set: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    backbone: str = DEFAULT_BACKBONE
    dtype: str = "auto"
    window: int = 1024
    stride: int | None = None
    budget: str | None = None
    seeds: Sequence[int] = ()

    def given(self, **options: Any) -> Experiment:
        """The same with these options in the place of its own, except those that are None or empty."""
        return replace(self, **{name: value for name, value in options.items() if value not in (None, [], ())})

    def task_specs(self, more: Sequence[str] = ()) -> list[TaskSpec]:
        """Its tasks; more: further settings `task.key=value`, which win. Raises LtmError for what is not known."""
        own = [f"{task}.{key}={_text(value)}" for task, keys in self.set.items() for key, value in keys.items()]
        return parse_tasks(",".join(self.tasks), [*own, *more])

    def method_specs(self) -> list[MethodSpec]:
        """Its methods. Raises LtmError for what is not known."""
        return parse_methods(",".join(self.methods))


def read_experiment(name: str) -> Experiment:
    """An experiment by its name, or of a .toml file. Raises LtmError where there is none, ConfigError for its faults.

    >>> read_experiment("long_text").tasks  # doctest: +SKIP
    ['long_text']
    """
    path = find_experiment(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LtmError(f"{path} is no TOML ({error}); mend it there") from None
    if problems := _problems(values):
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return Experiment(**values)


def find_experiment(name: str) -> Path:
    """The file of an experiment. LtmError lists those that are there, or asks for a path where no folder of them is."""
    path = Path(name) if name.endswith(".toml") else EXPERIMENTS / f"{name}.toml"
    if path.is_file():
        return path
    if path.parent != EXPERIMENTS or not EXPERIMENTS.is_dir():
        raise LtmError(
            f"there is no {path} here; experiments have names in a checkout of the repository alone: change to its "
            "folder, or give the path of a file: ltm bench run path/to/experiment.toml"
        )
    known = sorted(file.stem for file in EXPERIMENTS.glob("*.toml"))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise LtmError(f"no experiment is called {name!r}; {hint}there are: {', '.join(known)}")


def named_experiments() -> dict[str, str]:
    """What each experiment of this checkout is about, by its name; none where there are none."""
    names = sorted(file.stem for file in EXPERIMENTS.glob("*.toml"))
    return {name: read_experiment(name).about for name in names}


def _problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the names and types of an experiment's values."""
    known = [field.name for field in fields(Experiment)]
    problems = []
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            problems.append(f"{name!r} is no option{f'; did you mean {near[0]}?' if near else ''}")
        elif not _KINDS[name][0](value):
            problems.append(f"{name}={value!r}; use {_KINDS[name][1]}")
    return problems


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("about", "out", "data", "backbone", "dtype", "budget"), (_is_text, "a text in quotes")),
    **dict.fromkeys(("tasks", "methods"), (_are_texts, 'a list of texts: ["one", "two"]')),
    **dict.fromkeys(("window", "stride"), (_is_count, "a whole number")),
    "seeds": (lambda value: isinstance(value, list) and all(map(_is_count, value)), "a list of whole numbers"),
    "set": (
        lambda value: isinstance(value, dict) and all(isinstance(keys, dict) for keys in value.values()),
        "a table for each task: [set.long_text]",
    ),
}


def _text(value: Any) -> str:
    """A value as `--set` takes it: a list with commas."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
