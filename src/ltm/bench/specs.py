"""What a run is told in short: methods with their options, tasks with theirs, a budget of memory.

window,longmem:use_memory=false as no memory,longmem@sidenets/books:chunk_size=2,retrieved_tokens=32
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltm.bench.values import typed_options
from ltm.configs import Config
from ltm.errors import ConfigError, LtmError
from ltm.methods import method_class
from ltm.tasks.registry import task_class

_SPEC = re.compile(r"(?P<name>[^@:\s]+)(@(?P<path>.+?))?(:(?P<options>\w+=[^:]*))?$")
_FURTHER_OPTION = re.compile(r"\w+=")
_BYTES = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}
_BUDGET = re.compile(r"(?P<number>\d+)\s*((?P<unit>[kmg]i?|)b)?", re.IGNORECASE)


@dataclass(frozen=True)
class MethodSpec:
    """A method to be measured. label: what tables call it; sidenet: trained weights, None for those shipped."""

    name: str
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    sidenet: Path | None = None


@dataclass(frozen=True)
class TaskSpec:
    """A task to be run, with the fields of its config that differ from their defaults."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def config(self, **more: Any) -> Any:
        """The task's config. Raises ConfigError for values that cannot be."""
        return task_class(self.name).config_class(**{**self.options, **more})


@dataclass(frozen=True)
class Budget:
    """Memory that each method may use: tokens, or bytes."""

    tokens: int | None = None
    num_bytes: int | None = None

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens" if self.num_bytes is None else f"{self.num_bytes:,} bytes"

    def options(self, config_class: type[Config]) -> dict[str, int]:
        """The options that give a method this budget; {} for one whose config knows no such limit."""
        return config_class.with_budget(self.tokens, self.num_bytes)


def parse_methods(text: str) -> list[MethodSpec]:
    """The methods of a list with commas; see `parse_method`.

    A piece such as `top_k=4` is a further option of the method before it. Raises LtmError for what cannot be read,
    for unknown methods and options, and where two methods would have one label.
    """
    specs: list[str] = []
    for piece in filter(None, map(str.strip, text.split(","))):
        if specs and _FURTHER_OPTION.match(piece) and ":" in specs[-1]:
            specs[-1] += f",{piece}"
        else:
            specs.append(piece)
    methods = [parse_method(spec) for spec in specs]
    if not methods:
        raise LtmError("no method given; name some that `ltm methods` lists: --methods window,longmem")
    labels = [method.label for method in methods]
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise LtmError(f"two methods are called {twice[0]!r}; tell them apart: --methods '{twice[0]} as other name'")
    return methods


def parse_method(spec: str) -> MethodSpec:
    """NAME[@PATH][:key=value,...][ as LABEL].

    PATH: what `ltm train` wrote, without commas or colons. Without a label the spec itself is the label, its path
    shortened to the last part.

    >>> parse_method("longmem:use_memory=false as off").label
    'off'
    """
    text, _, label = (part.strip() for part in spec.partition(" as "))
    match = _SPEC.match(text)
    if match is None:
        raise LtmError(f"{spec!r} is no method; write NAME, NAME@PATH, NAME:key=value,key=value or ... as LABEL")
    name, path = match["name"], None if match["path"] is None else Path(match["path"])
    pairs = dict(pair.split("=", 1) for pair in _pairs(match["options"], spec))
    options = typed_options(method_class(name).config_class, pairs, f"method {name}")
    shortened = text if path is None else text.replace(match["path"], path.name)
    return MethodSpec(name, label or shortened, options, path)


def parse_tasks(names: str, settings: Iterable[str] = ()) -> list[TaskSpec]:
    """The tasks of a list with commas, with settings `task.key=value`. Raises LtmError for what is not known."""
    chosen = list(dict.fromkeys(filter(None, map(str.strip, names.split(",")))))
    if not chosen:
        raise LtmError("no task given; name some that `ltm bench list` lists: --tasks long_text")
    classes = {name: task_class(name) for name in chosen}
    texts: dict[str, dict[str, str]] = {name: {} for name in chosen}
    for setting in settings:
        task, key, value = _setting(setting)
        if task not in texts:
            raise LtmError(f"--set {setting} is for {task}, which is not run; tasks: {', '.join(chosen)}")
        texts[task][key] = value
    specs = [TaskSpec(n, typed_options(classes[n].config_class, t, f"task {n}")) for n, t in texts.items()]
    for spec in specs:
        spec.config()
    return specs


def parse_budget(text: str) -> Budget:
    """A number of tokens, or bytes with a unit: 65536, 64MB, 100kB, 1GiB."""
    match = _BUDGET.fullmatch(text.strip())
    if match is None or int(match["number"]) < 1:
        raise LtmError(f"budget {text!r}; use tokens such as 65536, or bytes such as 64MB or 1GiB")
    number, unit = int(match["number"]), match["unit"]
    return Budget(tokens=number) if unit is None else Budget(num_bytes=number * _BYTES[unit.lower()])


def _pairs(options: str | None, spec: str) -> list[str]:
    pairs = [pair.strip() for pair in (options or "").split(",") if pair.strip()]
    wrong = [pair for pair in pairs if not _FURTHER_OPTION.match(pair)]
    if wrong:
        raise ConfigError([f"{pair!r} in {spec!r} is no key=value" for pair in wrong])
    return pairs


def _setting(text: str) -> tuple[str, str, str]:
    """Task, key and value of `task.key=value`."""
    name, separator, value = text.partition("=")
    task, dot, key = name.strip().partition(".")
    if not (separator and dot and task and key):
        raise LtmError(f"--set {text} cannot be read; write it as task.key=value: --set long_text.documents=2")
    return task, key, value.strip()
