"""How a bank remembers: chunk size, budgets, index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ltm.bank.eviction import eviction_problems
from ltm.bank.search.index import INDEXES
from ltm.bank.storage import storage_problems
from ltm.configs import BankFields
from ltm.errors import ConfigError

_MOST = {
    "chunk_size": 2**16,
    "memory_size": 2**53,
    "memory_bytes": 2**53,
    "event_heads": 2**12,
    "event_tokens": 2**16,
    "offload": 2**53,
}
"""What a bank from elsewhere may ask for as well; 2**53: what every reader of JSON keeps apart."""
_NEVER_NONE = ("chunk_size", "event_tokens")


@dataclass(frozen=True)
class _Chunks:
    """The first of a bank's settings."""

    chunk_size: int = 4
    """Consecutive tokens that share one search key (their mean); larger is faster to search and coarser."""


@dataclass(frozen=True)
class BankConfig(BankFields, _Chunks):
    """Sizes and budgets of a bank, the same for each of its rows.

    Raises ConfigError with every problem of the values together, of whatever types they are: a file may hold any.

    >>> BankConfig(chunk_size=4, memory_size=65_536).memory_size
    65536
    """

    memory_size: int | None = 65_536  # type: ignore[assignment]
    """Most tokens a row remembers; None: no limit."""
    index: str = "auto"  # type: ignore[assignment]
    """Search over chunk keys: 'exact'; 'approximate' (clusters); 'auto': exact up to 131,072 chunks a row, then
    approximate once it pays; 'faiss' or 'qdrant' (exact too, each needs its extra; LTM_QDRANT_URL names a server)."""
    event_heads: int | None = None
    """Heads of the representative keys that writes bring for *events*, runs of tokens that are found together; None:
    no events, chunks are searched by their mean keys."""
    event_tokens: int = 8
    """Tokens that an event has at least, a write's last one apart: how many events a budget makes room for."""
    offload: int | None = None
    """Chunks of a row above which its keys and values lie in temporary files mapped into memory, of which the system
    keeps in RAM what is used; None: always in RAM."""

    def __post_init__(self) -> None:
        problems = [
            f"{name}={value!r}; use a whole number of 1 to {most:,}{'' if name in _NEVER_NONE else ', or None'}"
            for name, most in _MOST.items()
            if not _is_count(value := getattr(self, name), most) and (value is not None or name in _NEVER_NONE)
        ]
        if self.event_heads is not None and self.chunk_size != 1:
            problems.append(f"chunk_size={self.chunk_size} with events; use 1, an event has as many tokens as it has")
        if self.event_heads is not None and self.search_storage is not None:
            problems.append(
                f"search_storage={self.search_storage!r} with events; their keys are stored as computed: None"
            )
        if not isinstance(self.index, str) or self.index not in INDEXES:
            problems.append(f"index={self.index!r}; use one of {', '.join(sorted(INDEXES))}")
        problems += storage_problems(self)
        problems += eviction_problems(self.evict)
        if self.event_heads is not None and self.evict != "oldest":
            problems.append(f"evict={self.evict!r} with events; use 'oldest', it is not counted which are used")
        if not problems and self.memory_size is not None and self.memory_size < self.chunk_size:
            problems.append(
                f"memory_size={self.memory_size} is less than chunk_size={self.chunk_size}; "
                f"use a memory of at least one chunk"
            )
        if problems:
            raise ConfigError(problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BankConfig:
        """Read what `to_dict` gave; raises ConfigError for keys that are not known."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"unknown bank options {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**values)


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
