"""Published ways of remembering, one module each, under one base class and one registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltm.backbone import Backbone
from ltm.methods.base import Card, Method
from ltm.methods.registry import METHODS, create_method, method_class, register, scan

__all__ = ["METHODS", "Card", "Method", "create_method", "load_method", "method_class", "register"]

scan()


def load_method(backbone: Backbone, path: str | Path, **overrides: Any) -> Method:
    """Whatever method a directory holds, on its backbone; see `Method.from_pretrained`.

    >>> load_method(load_backbone("smollm2-135m"), "sidenet/", memory_size=16384)  # doctest: +SKIP
    """
    return Method.from_pretrained(backbone, path, **overrides)
