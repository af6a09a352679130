"""The loss of language modelling, computed without ever holding all logits in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def next_token_loss(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean cross-entropy (nats) of each next token, [] in float32.

    logits: [batch, tokens, vocab]; labels: [batch, tokens], shifted here, -100 left out; mask: bool [batch, tokens],
    False = padding, left out too. Zero (with a gradient of zero) where nothing is left to score.

    >>> next_token_loss(torch.zeros(1, 3, 7), torch.tensor([[1, 2, 3]]))
    tensor(1.9459)
    """
    losses, counted = token_losses(logits[:, :-1], labels[:, 1:], None if mask is None else mask[:, 1:])
    return losses.sum() / counted.sum().clamp(min=1)


def token_losses(logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy (nats) of each target, float32 [batch, tokens], and which of them count, bool [batch, tokens]."""
    counted = targets != -100
    if mask is not None:
        counted = counted & mask
    safe = targets.masked_fill(~counted, -100)
    rows = [
        functional.cross_entropy(row.float(), target, reduction="none", ignore_index=-100)
        for row, target in zip(logits, safe, strict=True)
    ]
    return torch.stack(rows), counted
