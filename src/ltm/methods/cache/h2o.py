"""H2O: the heavy hitters, which got most attention so far, and the recent tokens stay.

"Heavy-Hitter Oracle" (Zhang et al., 2023, "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large
Language Models", algorithm 1): each head sums, for every token it holds, the attention that queries gave it since it
came; when the budget is full, the token with the smallest sum leaves that is not among the most recent ones. Sums of
what left are lost with it.

How paper and released code (FMInference/H2O, utils_real_drop) go together, and what differs here:

- Half of the budget is for heavy hitters and half for recent tokens; the released code with real eviction has 1,024 and
  1,024, which is the default. The paper's 20% are budget_share=0.2: the code counts the prompt once, here the share is
  of all tokens seen so far.
- The released cache reads a prompt whole and cuts it down once; then one token leaves for each that comes. Here it is
  cut down after each block, while reading and decoding alike: `block=1` is the paper's algorithm from the first token.
- Sums are not divided by how many queries could see a token, which favours early tokens, in paper and code alike.
- Keys keep the positions they were computed at, as in the released summarization code; its streaming code rolls them,
  which is positions="cache" here.
- Heads that share keys: their sums are added. The released code has one row a batch, sums over the batch and does not
  share keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ltm.methods.cache.base import CacheFields, CacheRule
from ltm.methods.method import Card
from ltm.methods.registry import register
from ltm.streams.kept import EMPTY, KeptLayer


@dataclass(frozen=True)
class H2oConfig(CacheFields):
    """A budget, and how it is divided."""

    budget: int | None = 2048
    """Tokens whose keys and values each head keeps, heavy hitters and recent ones together; None: all."""
    recent: float = 0.5
    """Share of the budget that is for the most recent tokens, whatever they got; the paper has half."""

    LEAST = {"recent": 0}
    MOST = {"recent": 1}

    @classmethod
    def tiny(cls) -> H2oConfig:
        return cls(budget=10, block=4)


@register("h2o")
class H2o(CacheRule):
    """See the module's text and `H2oConfig`.

    >>> model = H2o(load_backbone("smollm2-135m"), H2oConfig(budget=256))  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = H2oConfig
    card = Card(
        "Zhang et al., 2023, arXiv:2306.14048",
        "a fifth of the cache is enough, if it holds what got most attention",
        "evicts after each block, also while reading; block=1 is the paper's algorithm",
        needs_training=False,
        deletion="all that was read later had it in its context",
    )

    def asks(self, layer: int, places: Tensor) -> Tensor:
        return places != EMPTY

    def note(self, layer: int, held: KeptLayer, weights: Tensor, places: Tensor) -> None:
        """weights [batch, kv_heads, group, queries, slots], each query's summing to 1."""
        held.note("received").add_(weights.sum(dim=(2, 3)))

    def score(self, layer: int, held: KeptLayer) -> Tensor:
        room = self.room(layer, held)
        recent = (
            (room[..., None] * self.method_config.recent).long()
            if isinstance(room, Tensor)
            else int((room or 0) * self.method_config.recent)
        )
        return held.note("received").masked_fill(held.place > held.last - recent, float("inf"))
