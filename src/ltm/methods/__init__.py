"""Published ways of remembering, one module each, under one base class and one registry.

Their names are here at once; classes are imported when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ltm.methods.registry import METHODS, create_method, load_method, method_class, register
from ltm.registry import Card

if TYPE_CHECKING:
    from ltm.methods.method import Method
    from ltm.methods.reader import Reader

__all__ = ["METHODS", "Card", "Method", "Reader", "create_method", "load_method", "method_class", "register"]

_BASES = {"Method": "ltm.methods.method", "Reader": "ltm.methods.reader"}


def __getattr__(name: str) -> Any:
    if name not in _BASES:
        raise AttributeError(f"module 'ltm.methods' has no attribute {name!r}")
    return getattr(import_module(_BASES[name]), name)
