"""Quest's choices, with what the paper and its released code use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ltm.configs import Config

MIN_PAGES = 3
"""Fewest pages that a query attends to, whatever the budget (released evaluation code)."""


@dataclass(frozen=True)
class QuestConfig(Config):
    """Tang et al., 2024, "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference" (arXiv:2406.10774).

    Raises ConfigError with every problem of the values together.

    >>> QuestConfig(token_budget=256).num_pages
    16
    """

    page_size: int = 16
    """Consecutive tokens that share bounds and are fetched together (paper: 16); larger is faster and coarser."""
    token_budget: int = 1024
    """Tokens that each query attends to, in whole pages and at least three of them (paper: 256 to 4,096)."""
    dense_layers: int = 2
    """First layers that attend to everything: there little can be left out (paper: 2, with 7B models; small backbones
    want more, SmolLM2-135M 12 of its 30: docs/log)."""
    current_page: Literal["kept", "ranked"] = "kept"
    """The page of the query's own token: 'kept' is always attended, as in the released kernels; 'ranked' has to win its
    place by its score like any other, as in the released evaluation code."""
    share_pages: bool = False
    """Query heads that share keys also share pages, by the best score among them: less is fetched (released: off)."""
    extrapolate: bool = False
    """Go on past the positions the backbone was made for, not refuse; what it says there is not to be trusted."""

    LEAST = {"page_size": 1, "token_budget": 1, "dense_layers": 0}

    @property
    def num_pages(self) -> int:
        """Pages that each query attends to."""
        return max(MIN_PAGES, self.token_budget // self.page_size)

    @classmethod
    def tiny(cls) -> QuestConfig:
        """Small enough that a few dozen tokens are more than the budget, for the contract tests."""
        return cls(page_size=4, token_budget=12, dense_layers=1)
