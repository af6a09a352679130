"""Published ways of remembering, one module each, under one base class and one registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltm.backbone import Backbone
from ltm.methods.method import Card, Method
from ltm.methods.reader import Reader
from ltm.methods.registry import METHODS, create_method, method_class, register, scan

__all__ = ["METHODS", "Card", "Method", "Reader", "create_method", "load_method", "method_class", "register"]

scan()


def load_method(backbone: Backbone, path: str | Path, **overrides: Any) -> Reader:
    """Whatever method a directory holds, on its backbone; see `Reader.from_pretrained`.

    >>> load_method(load_backbone("smollm2-135m"), "sidenet/", memory_size=16384)  # doctest: +SKIP
    """
    return Reader.from_pretrained(backbone, path, **overrides)
