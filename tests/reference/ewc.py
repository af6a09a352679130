"""Elastic weight consolidation written out naively: every prediction on its own, every stage with its own quadratic.

The fast form (`ltm.learning.ewc`) must have the same Fisher information in expectation, and the same gradients
(tests/learning/test_ewc.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def naive_fisher(logits_of: Callable[[Tensor], Tensor], weights: Weights, rows: list[Tensor]) -> Weights:
    """E_x E_{y~p(y|x)} (d log p(y|x) / d weight)^2 of a token's prediction, the expectation over y summed out.

    logits_of: of a row's token ids [tokens] -> [tokens, vocab]; rows: each one's first token predicts the second, ...
    """
    total, predictions = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
    for ids in rows:
        for place in range(len(ids) - 1):
            log_p = logits_of(ids)[place].log_softmax(dim=-1)
            for label in range(len(log_p)):
                gradients = torch.autograd.grad(log_p[label], list(weights.values()), retain_graph=True)
                for name, gradient in zip(weights, gradients, strict=True):
                    total[name] += float(log_p[label].detach().exp()) * gradient**2
            predictions += 1
    return {name: squares / predictions for name, squares in total.items()}


def naive_text_fisher(logits_of: Callable[[Tensor], Tensor], weights: Weights, rows: list[Tensor]) -> Weights:
    """Of a token, too, but of the true next tokens, and the square of each row's summed gradient."""
    total, predictions = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
    for ids in rows:
        summed = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for place in range(len(ids) - 1):
            log_p = logits_of(ids)[place].log_softmax(dim=-1)[ids[place + 1]]
            for name, gradient in zip(weights, torch.autograd.grad(log_p, list(weights.values())), strict=True):
                summed[name] += gradient
            predictions += 1
        for name in total:
            total[name] += summed[name] ** 2
    return {name: squares / predictions for name, squares in total.items()}


def naive_penalty(weights: Weights, stages: list[tuple[Weights, Weights]], strength: float) -> Tensor:
    """Eq. 3's second term, one quadratic for each (Fisher, weights) of an earlier stage."""
    total = torch.zeros((), dtype=torch.float64)
    for fisher, center in stages:
        for name, weight in weights.items():
            for index in range(weight.numel()):
                moved = weight.flatten()[index] - center[name].flatten()[index]
                total = total + strength / 2 * fisher[name].flatten()[index] * moved**2
    return total
