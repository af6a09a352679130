"""NewMethod: which tokens keep their keys and values when the cache is full, in one sentence.

(Authors, year, title, arXiv number, section or algorithm.)

How paper and released code go together, and what differs here:

- As it stands: each head keeps the tokens that its queries attended to most since the last block, and the newest ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ltm.methods.cache.base import CacheFields, CacheRule
from ltm.methods.registry import register
from ltm.registry import Card
from ltm.streams.kept import KeptLayer


@dataclass(frozen=True)
class NewMethodConfig(CacheFields):
    """The paper's name. Raises ConfigError with every problem of the values together."""

    recent: int = 16
    """Newest tokens that always stay (paper: ...)."""

    LEAST = {"recent": 0}

    @classmethod
    def tiny(cls) -> NewMethodConfig:
        """Small enough that a few dozen tokens are more than the budget, for the contract tests."""
        return cls(budget=10, block=4, recent=3)


@register("new_method")
class NewMethod(CacheRule):
    """See the module's text and `NewMethodConfig`.

    >>> model = ltm.attach("new_method", load_backbone("smollm2-135m"), budget=256)  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = NewMethodConfig
    card = Card(
        "Authors, year, arXiv number",
        "what it promises",
        "what is otherwise here",
        deletion="all that was read later had it in its context",
    )

    def asks(self, layer: int, places: Tensor) -> Tensor:
        """Every query's weights count; fewer queries are faster."""
        return torch.ones_like(places, dtype=torch.bool)

    def note(self, layer: int, held: KeptLayer, weights: Tensor, places: Tensor) -> None:
        """weights [batch, kv_heads, group, queries, slots]: added to each slot's note, [batch, kv_heads, slots]."""
        held.note("attention").add_(weights.mean(dim=2).sum(dim=2))

    def score(self, layer: int, held: KeptLayer) -> Tensor:
        """The lowest leave at the end of a block."""
        newest = held.last[..., None] if held.last.dim() == 2 else held.last
        return held.note("attention").masked_fill(held.place > newest - self.method_config.recent, float("inf"))
