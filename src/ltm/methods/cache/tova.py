"""TOVA: what the latest token attends to least is dropped.

"Token Omission Via Attention" (Oren et al., 2024, "Transformers are Multi-State RNNs", section 3.3): when a layer holds
more tokens than its budget, the one with the lowest attention from the present token leaves, the attention being the
mean over the layer's heads; recent and first tokens have no privilege. There is nothing to remember between steps.

How paper and released code (schwartz-lab-NLP/TOVA, tova_cache.py) go together, and what differs here:

- The released cache reads a prompt whole, at any length, and cuts it down once by its last token's attention; from then
  on one token leaves for each that comes. Here a block's last token decides, while reading and while decoding alike:
  `block=1` is the paper's recurrence from the first token on, and no prompt is ever held whole.
- The mean is over all query heads, and the layer's heads keep the same tokens (`heads="same"`), as in the code. With
  `heads="own"` each key head goes by the queries that share it.
- Keys keep the positions they were computed at, as in the code, whose position ids count every token that was seen.
- The present token is scored like any other, as in the code; NVIDIA's kvpress always keeps it.
- Batches, padding, grouped heads, sliding windows, beams (released: rows of one length).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ltm.methods.cache.base import CacheFields, CacheRule
from ltm.methods.method import Card
from ltm.methods.registry import register
from ltm.streams.kept import KeptLayer


@dataclass(frozen=True)
class TovaConfig(CacheFields):
    """A budget, and whose attention counts."""

    budget: int | None = 512
    """Tokens whose keys and values each head keeps (the released example's multi_state_size); None: all."""
    heads: Literal["own", "same"] = "same"
    """Whether each head keeps its own tokens, or all heads of a layer the same, by their mean attention (paper)."""

    @classmethod
    def tiny(cls) -> TovaConfig:
        return cls(budget=10, block=4)


@register("tova")
class Tova(CacheRule):
    """See the module's text and `TovaConfig`.

    >>> model = Tova(load_backbone("smollm2-135m"), TovaConfig(budget=256))  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = TovaConfig
    card = Card(
        "Oren et al., 2024, arXiv:2401.06104",
        "near full quality with an eighth of the cache, and no rule about first or recent tokens",
        "the last token of each block decides, also while reading; block=1 is the paper's recurrence",
        needs_training=False,
        deletion="all that was read later had it in its context",
    )

    def asks(self, layer: int, places: Tensor) -> Tensor:
        return (places + 1) % self.method_config.block == 0

    def note(self, layer: int, held: KeptLayer, weights: Tensor, places: Tensor) -> None:
        """weights [batch, kv_heads, group, queries, slots]; of a row's queries here at most one ends a block."""
        held.note("attention").copy_(weights.mean(dim=2).sum(dim=2))

    def score(self, layer: int, held: KeptLayer) -> Tensor:
        return held.note("attention")
