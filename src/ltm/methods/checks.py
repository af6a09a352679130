"""Checks of values that methods' configs have in common; each gives what is wrong, nothing where all is well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltm.errors import short_repr

MOST_RETRIEVED = 65_536
"""Of what each query gets: room is made for all of it, whatever is remembered."""
_RETRIEVED = {"retrieved_tokens", "pointer_tokens", "top_k", "representative_tokens"}


def value_problems(
    config: Any, least: Mapping[str, float], choices: Mapping[str, Sequence[Any]] | None = None
) -> list[str]:
    """Of a config's fields: numbers below what is least for each (None passes), or beyond what any can be, and values
    that are no choice."""
    values = [(name, value, least[name]) for name in least if (value := getattr(config, name)) is not None]
    problems = [f"{name}={value}; use {bound} or more" for name, value, bound in values if value < bound]
    too_many = [(name, value) for name, value, _ in values if name in _RETRIEVED and value > MOST_RETRIEVED]
    problems += [f"{name}={value}; use {MOST_RETRIEVED} or less" for name, value in too_many]
    return problems + [
        f"{name}={short_repr(getattr(config, name))}; use one of {', '.join(map(str, allowed))}"
        for name, allowed in (choices or {}).items()
        if getattr(config, name) not in allowed
    ]


def recent_problems(local_window: int, recent_tokens: int) -> list[str]:
    """What is wrong with how much of a window is given to what was read last."""
    if 0 <= recent_tokens < local_window:
        return []
    return [f"recent_tokens={recent_tokens}; use 0 to {local_window - 1}: less than {local_window=}"]


def stride_problems(local_window: int, stride: int | None) -> list[str]:
    """What is wrong with the stride of a window; [] if nothing."""
    if stride is None or 0 < stride <= local_window:
        return []
    return [f"stride={stride}; use 1 to {local_window=}"]


def stride_of(room: int, stride: int | None) -> int:
    """Tokens that leave a full window together: as the config says, or half of what can leave it."""
    return stride or max(room // 2, 1)
