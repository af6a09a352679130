"""NewMethod: what is carried from segment to segment, and how a segment changes it.

    state_{k+1} = update(state_k, segment_k);  prefix(state_k) stands before segment k

(Authors, year, arXiv number, equations.)

What differs from the paper and its released code:

- As it stands: the state is one vector a row, a mean of the embeddings read, which fades by `decay` a segment; what a
  row starts from is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ltm.backbone import Backbone
from ltm.errors import LtmError
from ltm.methods.recurrent.base import Recurrent, SegmentFields, States
from ltm.methods.registry import register
from ltm.registry import Card


@dataclass(frozen=True)
class NewMethodConfig(SegmentFields):
    """The paper's name. Raises ConfigError with every problem of the values together."""

    decay: float = 0.9
    """How much of the state a segment leaves, 0 to 1 (paper: ...)."""

    LEAST = {"decay": 0}
    MOST = {"decay": 1}

    @classmethod
    def tiny(cls) -> NewMethodConfig:
        """Small enough that a few dozen tokens are several segments, for the contract tests."""
        return cls(local_window=8)


@register("new_method")
class NewMethod(Recurrent):
    """See the module's text and `NewMethodConfig`.

    >>> model = ltm.attach("new_method", load_backbone("smollm2-135m"))  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = NewMethodConfig
    card = Card("Authors, year, arXiv number", "what it promises", "what is otherwise here", needs_training=True)

    def __init__(self, backbone: Backbone, config: NewMethodConfig):
        super().__init__(backbone, config)
        drawn = torch.randn(1, backbone.view.hidden_size, generator=torch.Generator().manual_seed(0))
        self.first = nn.Parameter(0.02 * drawn.to(backbone.device))

    def initial(self) -> dict[str, Tensor]:
        """The state of one row that has read nothing, without the batch's axis."""
        return {"mean": self.first}

    def prefix(self, state: States) -> Tensor:
        """Embeddings [batch, 1, hidden_size] that stand before a segment's first token."""
        return state["mean"]

    def step(self, state: States, ids: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A segment's logits, and the state after it."""
        return super().step(state, ids, mask)[0], self.update(state, ids, mask)

    def update(self, state: States, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The state after a segment, ids and mask [batch, tokens]; a row that is all padding keeps its own."""
        weights = mask.to(state["mean"].dtype)[..., None]  # [batch, tokens, 1]
        embedded = self.backbone.view.embeddings(ids).to(weights.dtype)
        mean = (embedded * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1)
        share = (1 - self.method_config.decay) * mask.any(dim=1).to(mean.dtype)[:, None, None]
        return {"mean": state["mean"] + share * (mean - state["mean"])}

    def trained_state(self) -> dict[str, Tensor]:
        return {"first": self.first.detach()}

    def load_trained_state(self, state: dict[str, Tensor], source: str) -> None:
        held = state.get("first")
        if len(state) != 1 or held is None or held.shape != self.first.shape:
            raise LtmError(f"{source} does not fit its own config: first; train again")
        self.first.data.copy_(held)
