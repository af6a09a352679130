"""The n-gram cache's choices."""

from __future__ import annotations

from dataclasses import dataclass

from ltm.configs import BudgetFields, WindowFields
from ltm.methods.baselines.ngram.weights import WEIGHTS


@dataclass(frozen=True)
class NGramConfig(WindowFields, BudgetFields):
    """A cache of suffix counts beside a language model. Raises ConfigError with every problem of the values together.

    How much each count weighs comes with the method (`ltm.methods.baselines.ngram.weights`, by tools/fit_ngram.py).
    """

    max_length: int = len(WEIGHTS)
    """Most tokens that are compared: of longer repetitions no more is asked."""
    inner: str | None = None
    """Directory of trained weights of the method whose words are mixed with, its own memory off; None: the
    backbone's."""
    backbone_share: bool | None = None
    """Whether the inner method mixes the backbone's words into its own (`LongMemConfig`); None: as it was saved."""
    window_counts: bool = True
    """Also count what still stands in the window; off: only what was read and what has left the window."""

    LEAST = {"max_length": 1}
    MOST = {"max_length": len(WEIGHTS)}  # longer ones have no weight

    @classmethod
    def tiny(cls) -> NGramConfig:
        """Small enough that a few dozen tokens fill window and memory, for the contract tests."""
        return cls(max_length=3, memory_size=40, local_window=12)
