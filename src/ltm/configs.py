"""Frozen config dataclasses from what people and files say: keyword options in, one error for all problems out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin

from ltm.decode_json import field_types, typed
from ltm.errors import ConfigError, short_repr

MOST = 2**40
"""No size, count or number of tokens is larger; beyond, torch's own whole numbers end."""


def config_from_options(config_class: type, options: dict[str, Any], owner: str) -> Any:
    """A config from keyword options; owner: what the error calls it ("method longmem", "generation").

    Raises ConfigError for options that are not known, with the known ones listed, or for all values of another type
    together.

    >>> config_from_options(Sampling, {"top_k": 5}, "generation").top_k  # doctest: +SKIP
    5
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


def range_problems(values: Mapping[str, Any]) -> list[str]:
    """Numbers that no option can have: none at all (nan), without an end, or beyond what is counted with."""
    problems = []
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(f"{name}={value}; use a finite number")
        elif isinstance(value, int) and abs(value) > MOST:
            problems.append(f"{name}={short_repr(value)}; use at most {MOST:,}")
    return problems


def _json_kind(hint: Any) -> Any:
    """The type of a field's JSON values; which texts of a Literal there are the config tells itself."""
    if get_origin(hint) is Literal:
        return str
    members = get_args(hint)
    return Union[tuple(map(_json_kind, members))] if members else hint  # noqa: UP007 (of a tuple)
