"""The n-gram cache's choices."""

from __future__ import annotations

from dataclasses import dataclass

from ltm.errors import ConfigError
from ltm.methods.checks import stride_problems, value_problems
from ltm.methods.ngram.weights import WEIGHTS


@dataclass(frozen=True)
class NGramConfig:
    """A cache of suffix counts beside a language model. Raises ConfigError with every problem of the values together.

    How much each count weighs comes with the method (`ltm.methods.ngram.weights`, by benchmarks/fit_ngram.py).
    """

    max_length: int = len(WEIGHTS)
    """Most tokens that are compared: of longer repetitions no more is asked."""
    inner: str | None = None
    """Directory of trained weights of the method whose words are mixed with, its own memory off; None: the
    backbone's."""
    window_counts: bool = True
    """Also count what still stands in the window; off: only what was read and what has left the window."""
    memory_size: int = 65536
    """Most tokens remembered in each row; the oldest leave first."""
    memory_bytes: int | None = None
    """Most bytes of memory in each row, token ids and where they came from; None: memory_size alone decides."""
    local_window: int = 1024
    """Most tokens the model sees at once."""
    stride: int | None = None
    """Tokens that leave when the window is full; None: half of the window."""

    def __post_init__(self) -> None:
        problems = value_problems(self, {"max_length": 1, "memory_size": 1, "memory_bytes": 1, "local_window": 2})
        if self.max_length > len(WEIGHTS):
            problems.append(f"max_length={self.max_length}; use {len(WEIGHTS)} or less, longer ones have no weight")
        problems += stride_problems(self.local_window, self.stride)
        if problems:
            raise ConfigError(problems)

    @classmethod
    def tiny(cls) -> NGramConfig:
        """Small enough that a few dozen tokens fill window and memory, for the contract tests."""
        return cls(max_length=3, memory_size=40, local_window=12)
