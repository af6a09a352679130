"""Scoring a text as one stream: how well each token was predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ltm.memory import LEFT_OUT, LeftOut, Memory

if TYPE_CHECKING:
    from ltm.methods import Reader

PIECE_TOKENS = 512
"""Tokens given to one forward: float32 logits of 512 tokens over a vocabulary of 49,152 are 100 MB."""

Progress = Callable[[int], None]
"""Called with the number of tokens of each piece once it is scored."""


@torch.no_grad()
def score_stream(
    method: Reader, ids: Tensor, *, memory: Memory | LeftOut | None = LEFT_OUT, progress: Progress | None = None
) -> Tensor:
    """Nats of each token but the first, float32 [tokens - 1], given all before it and what the method has read.

    ids: int64 [tokens]. The logits at the end of one piece score the first token of the next. On the CPU afterwards.
    """
    stream = method.stream(memory)
    size = PIECE_TOKENS if stream.window is None else min(PIECE_TOKENS, stream.window)
    losses, before = [torch.empty(0)], None
    for piece in ids.to(method.device).split(size):  # [piece]
        logits = stream.push(piece[None])[0].float()  # [piece, vocab]
        predictions = logits if before is None else torch.cat((before, logits))
        targets = piece[1:] if before is None else piece
        losses.append(functional.cross_entropy(predictions[:-1], targets, reduction="none").cpu())
        before = logits[-1:]
        if progress is not None:
            progress(len(piece))
    return torch.cat(losses)
