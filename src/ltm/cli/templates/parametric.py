"""NewMethod: what is changed in the backbone's matrices while reading, and how.

    y = W x + D x,   D zero at first

(Authors, year, arXiv number, equation.)

What differs from the paper and its released code:

- As it stands: D is a matrix as large as W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from ltm.methods.parametric.base import Parametric, ParametricFields
from ltm.methods.registry import register
from ltm.registry import Card


@dataclass(frozen=True)
class NewMethodConfig(ParametricFields):
    """The paper's name. Raises ConfigError with every problem of the values together."""

    scale: float = 1.0
    """What the change is multiplied with (paper: ...)."""

    @classmethod
    def tiny(cls) -> NewMethodConfig:
        """With which a few dozen tokens make a difference, for the contract tests."""
        return cls(**cls.tiny_reading())


class Changed(nn.Module):
    """A linear layer and what is added to it. matrix: [out, in]."""

    def __init__(self, base: Any, scale: float):
        super().__init__()
        size = base.weight.shape[::-1] if isinstance(base, Conv1D) else base.weight.shape
        self.base, self.scale = base, scale
        self.matrix = nn.Parameter(torch.zeros(size, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in]; the result [..., out]."""
        out: Tensor = self.base(x)
        return out + self.scale * functional.linear(x, self.matrix.to(x.dtype))


@register("new_method")
class NewMethod(Parametric):
    """See the module's text and `NewMethodConfig`.

    >>> model = ltm.attach("new_method", load_backbone("smollm2-135m"))  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = NewMethodConfig
    card = Card("Authors, year, arXiv number", "what it promises", "what is otherwise here")

    def wrap(self, module: nn.Module) -> nn.Module:
        """What stands in a matrix's place; at first it computes what the matrix does."""
        return Changed(module, self.method_config.scale)

    def delta(self, wrapped: Any) -> Tensor:
        """What is added to the matrix, as the matrix lies: GPT-2's is [in, out]."""
        change: Tensor = wrapped.scale * wrapped.matrix
        return change.T if isinstance(wrapped.base, Conv1D) else change
