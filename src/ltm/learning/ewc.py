"""Elastic weight consolidation: weights that mattered before are held near where they were.

Kirkpatrick et al., 2017, "Overcoming catastrophic forgetting in neural networks" (arXiv:1612.00796), eq. 3:

    L(θ) = L_B(θ) + Σ_i λ/2 F_i (θ_i - θ*_i)²

θ*: the weights after stage A; F: the diagonal of the Fisher information there. With L_B the mean loss of a token and F
that of a token, λ = 1 is Laplace's approximation of the mean loss of A and B together, near θ*. The sum of several
stages' quadratics is one quadratic (as the paper notes), F = Σ F_s around the F-weighted mean of the θ*_s: it is kept
instead of one pair a stage.

How F is estimated. The paper: F_i = E_x E_{y~p(y|x)} (∂ log p(y|x) / ∂θ_i)², of single predictions whose labels the
model draws. For a language model that would be a backward pass a token; but gradients of labels that are drawn have
mean 0 and are independent given the text, so the square of a batch's summed gradient has the expectation of the sum of
the squares: one backward pass a batch is unbiased. With labels="text" the true next tokens stand in their place, as in
common code (the "empirical Fisher"), and the square of the sum then holds the mean gradient too. Avalanche squares the
gradient of a minibatch's mean, whose F is smaller by up to the batch size; mammoth's ewc_on takes examples one by one
and weights each by its probability; both leave out the 1/2. So strengths do not carry over from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ltm.configs import Config
from ltm.errors import LtmError
from ltm.learning.registry import register
from ltm.registry import Card
from ltm.training.learner import Inputs, Learner
from ltm.training.protocol import TrainableMethod


@dataclass(frozen=True)
class EwcConfig(Config):
    """Raises ConfigError with every problem of the values together."""

    strength: float = 1000.0
    """How much what was learned before weighs against what is learned now, per token; 0 is plain training. Ours:
    with 1000 a SideNet ended lower on both of two texts, 10 changed nothing (docs/log/2026-11-27-continual.md)."""
    fisher_batches: int = 64
    """Batches of a stage, from its start, on which importance is estimated: one backward pass each."""
    labels: Literal["drawn", "text"] = "drawn"
    """Whose next tokens importance is about: 'drawn' by the model (the paper) or those of the 'text' (common code)."""

    LEAST: ClassVar[Mapping[str, float]] = {"strength": 0, "fisher_batches": 1}

    @classmethod
    def off(cls) -> EwcConfig:
        """Plain training."""
        return cls(strength=0.0, fisher_batches=2)

    @classmethod
    def tiny(cls) -> EwcConfig:
        """Keeps what a tiny model learned in a few steps."""
        return cls(strength=10_000.0, fisher_batches=8)


@register("ewc")
class Ewc(Learner):
    """See the module's text and `EwcConfig`; holds two tensors of the size of each that is trained.

    >>> Trainer(method, [technical, latex], config, "out", learner=Ewc(EwcConfig(strength=2.0)))  # doctest: +SKIP
    """

    config_class = EwcConfig
    card = Card(
        "Kirkpatrick et al., 2017, arXiv:1612.00796",
        "earlier tasks are kept by slowing down the weights that matter for them",
        "importance of a token's prediction, estimated by one backward pass a batch; stages are folded into one",
    )

    def __init__(self, config: EwcConfig | None = None):
        super().__init__(config or EwcConfig())
        self.importance: dict[str, Tensor] = {}
        self.center: dict[str, Tensor] = {}

    def begin(self, stage: int, method: TrainableMethod, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = parameters

    def loss(self, method: TrainableMethod, inputs: Inputs, output: Any) -> Tensor:
        loss: Tensor = output.loss
        for name, importance in self.importance.items():
            moved = self.parameters[name] - self.center[name]
            loss = loss + self.config.strength / 2 * (importance * moved.square()).sum()
        return loss

    def end(self, stage: int, method: TrainableMethod, batches: Iterator[Inputs]) -> None:
        fisher = self.fisher(method, islice(batches, self.config.fisher_batches))
        for name, parameter in self.parameters.items():
            new, now = fisher[name], parameter.detach().clone()
            old = self.importance.get(name, torch.zeros_like(new))
            center = self.center.get(name, now)
            self.importance[name] = old + new
            # the F-weighted mean of both; where nothing matters, where the weight is now
            share = torch.where(old + new > 0, new / (old + new), 1.0)
            self.center[name] = center + share * (now - center)

    def fisher(self, method: TrainableMethod, batches: Iterator[Inputs]) -> dict[str, Tensor]:
        """The diagonal of the Fisher information of a token's prediction, by name."""
        total = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        tokens = 0
        for inputs in batches:
            loss, scored = self._log_loss(method(**inputs), inputs["labels"])
            tokens += scored
            if not loss.requires_grad:  # nothing that is trained took part: its gradient is 0
                continue
            found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
            for name, gradient in zip(total, found, strict=True):
                if gradient is not None:
                    total[name] += gradient.detach().square()
        return {name: squares / max(tokens, 1) for name, squares in total.items()}

    def _log_loss(self, output: Any, labels: Tensor) -> tuple[Tensor, int]:
        """-log p of drawn (or true) next tokens, summed over those that are scored; and how many these are."""
        targets = labels[:, 1:]
        scored = targets != -100
        logits, targets = output.logits[:, :-1][scored].float(), targets[scored]  # [scored, vocab], [scored]
        if self.config.labels == "drawn":
            targets = torch.multinomial(logits.detach().softmax(dim=-1), 1)[:, 0]
        return functional.cross_entropy(logits, targets, reduction="sum"), len(targets)

    def state_dict(self) -> dict[str, Tensor]:
        parts = {"importance": self.importance, "center": self.center}
        return {f"{part}|{name}": tensor for part, named in parts.items() for name, tensor in named.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        names = {key.partition("|")[2] for key in state}
        if others := sorted(name for name in names if name not in self.parameters):
            raise LtmError(f"importance is known of {others[0]}, which is not trained now; train what was trained then")
        for key, tensor in state.items():
            part, _, name = key.partition("|")
            getattr(self, part)[name] = tensor.to(self.parameters[name].device)
