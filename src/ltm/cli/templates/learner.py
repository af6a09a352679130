"""NewMethod: how weights that are trained on one thing after another keep what they knew.

    L(θ) = L_B(θ) + strength / 2 Σ_i (θ_i - θ*_i)²

(Authors, year, arXiv number, equation.)

What differs from the paper and its released code:

- As it stands: all weights are held alike where the last stage left them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ltm.configs import Config
from ltm.learning.registry import register
from ltm.registry import Card
from ltm.training.learner import Inputs, Learner
from ltm.training.protocol import TrainableMethod


@dataclass(frozen=True)
class NewMethodConfig(Config):
    """The paper's name. Raises ConfigError with every problem of the values together."""

    strength: float = 1.0
    """How firmly weights are held; 0 is plain training (paper: ...)."""

    LEAST = {"strength": 0}

    @classmethod
    def off(cls) -> NewMethodConfig:
        """Plain training, for the contract tests."""
        return cls(strength=0.0)

    @classmethod
    def tiny(cls) -> NewMethodConfig:
        """Keeps what a tiny model learned in a few steps, for the contract tests."""
        return cls(strength=1.0)


@register("new_method")
class NewMethod(Learner):
    """See the module's text and `NewMethodConfig`.

    >>> Trainer(method, [first, second], config, "out", learner=NewMethod(NewMethodConfig()))  # doctest: +SKIP
    """

    config_class = NewMethodConfig
    card = Card("Authors, year, arXiv number", "what it promises", "what is otherwise here")

    def __init__(self, config: NewMethodConfig | None = None):
        super().__init__(config or NewMethodConfig())
        self.kept: dict[str, Tensor] = {}

    def begin(self, stage: int, method: TrainableMethod, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = parameters

    def loss(self, method: TrainableMethod, inputs: Inputs, output: Any) -> Tensor:
        """What is back-propagated for a batch; nothing is added on the first stage."""
        loss: Tensor = output.loss
        for name, kept in self.kept.items():
            loss = loss + self.config.strength / 2 * (self.parameters[name] - kept).square().sum()
        return loss

    def end(self, stage: int, method: TrainableMethod, batches: Iterator[Inputs]) -> None:
        """A stage is over: its weights are what later ones are held to."""
        self.kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.kept)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.kept = {name: tensor.to(self.parameters[name].device) for name, tensor in state.items()}
