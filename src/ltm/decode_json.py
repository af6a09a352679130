"""JSON values into dataclasses, every type checked: what was edited or damaged is told, and never half understood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

Reader = Callable[[Any], Any]
MAY_MISS = {"may_miss": True}
"""Metadata of a dataclass's field with a default that JSON may leave out: `field(default=None, metadata=MAY_MISS)`."""
_PLAIN = {
    int: "a whole number of 64 bits",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
}


class _WrongType(Exception):
    """place: where in the value, such as `.rows[3]`; what: was wrong there."""

    def __init__(self, what: str):
        self.place, self.what = "", what

    def within(self, place: str) -> _WrongType:
        self.place = place + self.place
        return self


def typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: bool, int (64 bits), float (finite), str, dict, list[...], ... | None, or a dataclass of such.

    where: the value's name for the message. Raises ValueError where a type is another or a field is missing (but those
    of MAY_MISS); fields that are not known are refused too.

    >>> typed(list[int], [1, 2], "layers")
    [1, 2]
    """
    try:
        return _reader(kind)(value)
    except _WrongType as error:
        raise ValueError(f"{where}{error.place} {error.what}") from error


@lru_cache(maxsize=256)
def field_types(kind: type) -> dict[str, Any]:
    """The type of each field of a dataclass: looked up once, it takes many times as long as checking a value."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


@lru_cache(maxsize=256)
def _reader(kind: Any) -> Reader:
    """What turns a value into one of this kind, or raises _WrongType."""
    members = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        inner = _reader(next(member for member in members if member is not NoneType))
        return (lambda value: None if value is None else inner(value)) if NoneType in members else inner
    if get_origin(kind) is list:
        return _list_reader(_reader(members[0]))
    if get_origin(kind) is dict:
        return lambda value: dict(_expected(value, dict, "an object"))
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_reader(kind)
    return lambda value: _expected(value, kind, _PLAIN.get(kind, str(kind)))


def _list_reader(item_reader: Reader) -> Reader:
    def read(value: Any) -> list[Any]:
        items: list[Any] = []
        try:
            for item in _expected(value, list, "a list"):
                items.append(item_reader(item))
        except _WrongType as error:
            raise error.within(f"[{len(items)}]" if isinstance(value, list) else "") from None
        return items

    return read


def _dataclass_reader(kind: type) -> Reader:
    readers = {name: _reader(hint) for name, hint in field_types(kind).items()}
    may_miss = {own.name for own in fields(kind) if own.metadata == MAY_MISS}

    def read(value: Any) -> Any:
        missing = may_miss - _expected(value, dict, "an object").keys()
        wrong = sorted((readers.keys() ^ value.keys()) - missing)
        if wrong:
            raise _WrongType(f"has other fields than it should: {', '.join(map(str, wrong[:5]))}")
        found = {}
        for name, reader in readers.items():
            try:
                if name not in missing:
                    found[name] = reader(value[name])
            except _WrongType as error:
                raise error.within(f".{name}") from None
        return kind(**found)

    return read


def _expected(value: Any, kind: type, what: str) -> Any:
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if fits and kind in (int, float):
        fits = abs(value) < 2**63  # False for NaN as well
    if not fits:
        raise _WrongType(f"is not {what}")
    return value
