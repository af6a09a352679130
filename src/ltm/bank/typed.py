"""JSON values into dataclasses, every type checked: what was edited or damaged is told, and never half understood."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: bool, int (64 bits), float (finite), str, dict, list[...], ... | None, or a dataclass of such.

    where: the value's name for the message. Raises ValueError where a type is another or a field is missing; fields
    that are not known are refused too.

    >>> typed(list[int], [1, 2], "layers")
    [1, 2]
    """
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    if members:
        if value is None and NoneType in members:
            return None
        return typed(next(member for member in members if member is not NoneType), value, where)
    if get_origin(kind) is list:
        _expect(isinstance(value, list), "a list", where)
        return [typed(get_args(kind)[0], item, f"{where}[{place}]") for place, item in enumerate(value)]
    if get_origin(kind) is dict:
        _expect(isinstance(value, dict), "an object", where)
        return dict(value)
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where)
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if fits and kind in (int, float):
        fits = abs(value) < 2**63  # False for NaN as well
    _expect(fits, _NAMES.get(kind, str(kind)), where)
    return value


_NAMES = {
    dict: "an object",
    list: "a list",
    int: "a whole number of 64 bits",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
}


def _dataclass(kind: type, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), "an object", where)
    hints, names = get_type_hints(kind), [field.name for field in fields(kind)]
    wrong = sorted(set(names) ^ set(value))
    if wrong:
        raise ValueError(f"{where} has other fields than it should: {', '.join(map(str, wrong[:5]))}")
    return kind(**{name: typed(hints[name], value[name], f"{where}.{name}") for name in names})


def _expect(fits: bool, what: str, where: str) -> None:
    if not fits:
        raise ValueError(f"{where} is not {what}")
