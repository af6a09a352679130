"""Frozen config dataclasses: their checks, the fields that many share, and how they come from people and files.

A method's config is one `@dataclass(frozen=True)` that inherits the fields it shares and adds its own, each with its
help sentence below it, which is the command line's too. What a value may be is read from the class: choices from
`Literal` annotations, the least and the most of numbers from `LEAST` and `MOST`, the rest from `problems`.

>>> @dataclass(frozen=True)  # doctest: +SKIP
... class TovaConfig(Config):
...     budget: int = 1024
...     \"\"\"Most tokens kept in each layer.\"\"\"
...     LEAST = {"budget": 1}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from ltm.decode_json import field_types, typed
from ltm.errors import ConfigError, short_repr

DEFAULT_BACKBONE, DEFAULT_METHOD = "smollm2-135m", "longmem"
"""What is used where none is named."""
NUM_PASSAGES = 3
"""Passages of what was read that a question is answered from."""
INSTRUCTION = "Answer in a few words taken from the text."
"""Asked for where passages stand before a question, on a line of its own. Chosen on the half of SQuAD's articles that
no table is about, and on books with other facts (docs/log/2026-11-27-what-is-shown.md)."""
MOST_COUNTED = 2**40
"""No size, count or number of tokens is larger; beyond, torch's own whole numbers end."""
MOST_RETRIEVED = 65_536
"""Of what each query gets: room is made for all of it, whatever is remembered."""

Storage = Literal["float32", "float16", "bfloat16", "int8", "int4"]


@dataclass(frozen=True)
class Config:
    """Base of the methods' configs: checks values when made; ConfigError tells all problems together.

    LEAST, MOST: by field, between what a number has to lie (None passes). `with_window` and `with_budget` give the
    options by which a method is held to a window or to a budget, so that nobody guesses from the names of fields.
    """

    LEAST: ClassVar[Mapping[str, float]] = {}
    MOST: ClassVar[Mapping[str, float]] = {}

    def __post_init__(self) -> None:
        if problems := [*_value_problems(self), *self.problems()]:
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """What is wrong beyond single values, one sentence each; other values may be wrong too."""
        return []

    @classmethod
    def with_window(cls, window: int, stride: int | None = None) -> dict[str, int]:
        """The options that make a window so long; {} for a method without one. stride: tokens that leave it when it is
        full, fewer where fewer can; None: the default."""
        return {}

    @classmethod
    def with_budget(cls, tokens: int | None = None, num_bytes: int | None = None) -> dict[str, int]:
        """The options that hold a memory to so many tokens or bytes; {} for a method that knows no such limit."""
        return {}


@dataclass(frozen=True)
class WindowFields(Config):
    """Of methods whose stream is a window that moves on when it is full."""

    local_window: int = 1024
    """Most tokens of the present that attention sees."""
    stride: int | None = None
    """Tokens that leave when the window is full; None: half of the window."""

    LEAST: ClassVar[Mapping[str, float]] = {"local_window": 2}

    def problems(self) -> list[str]:
        return [*super().problems(), *stride_problems(self.room, self.stride)]

    @property
    def room(self) -> int:
        """Tokens of a full window that can leave it."""
        return self.local_window

    @classmethod
    def with_window(cls, window: int, stride: int | None = None) -> dict[str, int]:
        return {"local_window": window} | ({} if stride is None else {"stride": min(stride, window)})


@dataclass(frozen=True)
class BudgetFields(Config):
    """Of methods whose memory has an end."""

    memory_size: int = 65536
    """Most tokens remembered in each row; the oldest are evicted first."""
    memory_bytes: int | None = None
    """Most bytes of memory in each row, keys, values, token ids and spans; None: memory_size alone decides."""

    LEAST: ClassVar[Mapping[str, float]] = {"memory_size": 1, "memory_bytes": 1}

    @classmethod
    def with_budget(cls, tokens: int | None = None, num_bytes: int | None = None) -> dict[str, int]:
        asked = {"memory_size": tokens, "memory_bytes": num_bytes}
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True)
class StorageFields(Config):
    """Of banks: how keys and values are kept."""

    key_storage: Storage | None = None
    """Keys in a new memory: float32, float16, bfloat16, int8 or int4 (docs/bank-format.md); None: as computed."""
    value_storage: Storage | None = None
    """Values, in the same way."""


@dataclass(frozen=True)
class BankFields(StorageFields, BudgetFields):
    """Of banks that are searched by chunks."""

    search_storage: Storage | Literal["derived"] | None = None
    """Search keys, in the same way, or 'derived' from the stored keys at each search: no bytes, and more time."""
    evict: str = "oldest"
    """What is evicted first: 'oldest', 'least_recent' or 'least_frequent' (retrieved), or a name of yours."""
    index: Literal["auto", "exact", "approximate", "faiss", "qdrant"] = "auto"
    """Search over keys: 'exact', 'approximate', 'auto' (exact up to 131,072 chunks a row, then approximate once it
    pays), 'faiss' or 'qdrant' (extras)."""


@dataclass(frozen=True)
class RecentFields(WindowFields):
    """Of readers whose window can begin with what was read last."""

    segment_size: int = 256
    """Tokens encoded together when reading and training."""
    recent_tokens: int = 0
    """Tokens read last that stand in the window, too, before what is asked; at most local_window less one."""

    LEAST: ClassVar[Mapping[str, float]] = {"segment_size": 2}

    def problems(self) -> list[str]:
        found = super().problems()
        if not 0 <= self.recent_tokens < self.local_window:
            window = self.local_window
            found.append(f"recent_tokens={self.recent_tokens}; use 0 to {window - 1}: less than local_window={window}")
        return found


def stride_problems(room: int, stride: int | None) -> list[str]:
    """What is wrong with a stride where so many tokens can leave a window; [] if nothing."""
    return [] if stride is None or 0 < stride <= room else [f"stride={stride}; use 1 to {max(room, 1)}"]


def stride_of(room: int, stride: int | None) -> int:
    """Tokens that leave a full window together: as the config says, or half of what can leave it."""
    return stride or max(room // 2, 1)


def range_problems(values: Mapping[str, Any]) -> list[str]:
    """Numbers that no option can have: none at all (nan), without an end, or beyond what is counted with."""
    problems = []
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(f"{name}={value}; use a finite number")
        elif isinstance(value, int) and abs(value) > MOST_COUNTED:
            problems.append(f"{name}={short_repr(value)}; use at most {MOST_COUNTED:,}")
    return problems


def choices(hint: Any) -> tuple[Any, ...] | None:
    """What a field annotated with `Literal`s may be; None where its annotation names no choices.

    >>> choices(Literal["a", "b"] | None)
    ('a', 'b', None)
    """
    if get_origin(hint) is Literal:
        return get_args(hint)
    members = [(None,) if member is NoneType else choices(member) for member in get_args(hint)]
    if not members or None in members or get_origin(hint) in (list, dict) or members == [(None,)]:
        return None
    return tuple(choice for found in members if found for choice in found)


def choice_problems(config: Any) -> list[str]:
    """Values of a config that are none of those which its `Literal` annotations name."""
    kind: type = type(config)
    allowed = {name: known for name, hint in field_types(kind).items() if (known := choices(hint)) is not None}
    return [
        f"{name}={short_repr(value)}; use one of {', '.join(map(str, known))}"
        for name, known in allowed.items()
        if (value := getattr(config, name)) not in known
    ]


def config_from_options(config_class: type, options: dict[str, Any], owner: str) -> Any:
    """A config from keyword options; owner: what the error calls it ("method longmem", "generation").

    Raises ConfigError for options that are not known, with the known ones listed, or for all values of another type
    together.

    >>> config_from_options(Sampling, {"top_p": 0.5}, "generation").top_p  # doctest: +SKIP
    0.5
    """
    known = [field.name for field in fields(config_class)]
    unknown = [str(option)[:60] for option in options if option not in known]
    if unknown:
        raise ConfigError(f"{owner} has no option {', '.join(unknown[:9])}; it has: {', '.join(known) or 'none'}")
    hints, values, problems = field_types(config_class), {}, list[str]()
    for option, value in options.items():
        try:
            value = value.item() if hasattr(value, "item") else value
            problems += (found := range_problems({} if option == "seed" else {option: value}))
            values[option] = value if found else typed(_json_kind(hints[option]), value, option)
        except (ValueError, RuntimeError) as error:
            problems.append(f"{option}={short_repr(value)}: {error}")
    if problems:
        raise ConfigError(problems)
    return config_class(**values)


def _json_kind(hint: Any) -> Any:
    """The type of a field's JSON values; which texts of a Literal there are the config tells itself."""
    if get_origin(hint) is Literal:
        return str
    members = get_args(hint)
    return Union[tuple(map(_json_kind, members))] if members else hint  # noqa: UP007 (of a tuple)


def _value_problems(config: Config) -> Iterator[str]:
    """Numbers that are too small or too large, and values that are no choice."""
    kind = type(config)
    for name, bound in _merged(kind, "LEAST").items():
        if (value := getattr(config, name)) is not None and value < bound:
            yield f"{name}={value}; use {bound} or more"
    for name, bound in _merged(kind, "MOST").items():
        if (value := getattr(config, name)) is not None and value > bound:
            yield f"{name}={value}; use {bound} or less"
    yield from choice_problems(config)


def _merged(kind: type, name: str) -> dict[str, float]:
    """A class's table of bounds with those of its bases; what a subclass says wins."""
    merged: dict[str, float] = {}
    for base in reversed(kind.__mro__):
        merged |= vars(base).get(name, {})
    return merged
