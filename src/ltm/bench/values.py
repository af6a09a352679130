"""Options written as text, key=value, to the typed fields of a config dataclass."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from ltm.configs import range_problems
from ltm.decode_json import field_types
from ltm.errors import ConfigError

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def typed_options(config_class: type, texts: Mapping[str, str], owner: str) -> dict[str, Any]:
    """The options of `owner` as its config takes them; ConfigError with every problem of them together.

    >>> typed_options(WindowConfig, {"local_window": "64", "stride": "none"}, "window")  # doctest: +SKIP
    {'local_window': 64, 'stride': None}
    """
    hints = field_types(config_class)
    known, problems, values = [field.name for field in fields(config_class)], [], {}
    for name, text in texts.items():
        if name not in known:
            problems.append(_unknown(name, known, owner))
            continue
        try:
            values[name] = parse_value(text, hints[name])
        except ValueError as error:
            problems.append(f"{owner}: {name}={text}: {error}")
    problems += range_problems(values)
    if problems:
        raise ConfigError(problems)
    return values


def parse_value(text: str, hint: Any) -> Any:
    """A text as the type that a field is annotated with; 'none' where it may be None. ValueError says what would do."""
    members = [member for member in get_args(hint) if member is not NoneType]
    if get_origin(hint) is Literal:
        if text not in members:
            raise ValueError(f"use one of {', '.join(map(str, members))}")
        return text
    if members:
        if NoneType in get_args(hint) and text.lower() == "none":
            return None
        return parse_value(text, members[0])
    return _PARSERS.get(hint, str)(text)


def _boolean(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ValueError("use true or false")
    return text.lower() in _TRUE


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("use a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("use a number") from None


_PARSERS: dict[Any, Any] = {bool: _boolean, int: _whole, float: _number}


def _unknown(name: str, known: list[str], owner: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{owner} has no option {name!r}{hint} it has: {', '.join(known) or 'none'}"
