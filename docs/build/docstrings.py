"""Docstrings as Markdown: examples become code, and a shape such as [batch, tokens] is no link."""

from __future__ import annotations

import re
from typing import Any

import griffe

_CODE = re.compile(r"(`[^`]*`)")


class Docstrings(griffe.Extension):
    """Changes each docstring before mkdocstrings sees it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring with its doctests fenced and the brackets of its prose escaped."""
    lines: list[str] = []
    inside = False
    for line in text.split("\n"):
        begins = line.startswith(">>> ")
        if begins and not inside:
            lines.append("```python")
        elif inside and not line.strip():
            lines.append("```")
        inside = begins or (inside and bool(line.strip()))
        lines.append(line if inside or line.startswith("    ") else _escaped(line))
    return "\n".join([*lines, "```"] if inside else lines)


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    return "".join(part if part.startswith("`") else part.replace("[", r"\[") for part in parts)
