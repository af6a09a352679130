"""What a bank notes of the method that writes it, so that it is opened with the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MethodEntry:
    """The method that made a bank and reads it: its name, the fields of its config that shape what is written, and
    the directory of its trained weights (None: those that are shipped, or none)."""

    name: str
    options: dict[str, Any]
    weights: str | None
