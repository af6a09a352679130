"""RMT unrolled by hand, one token at a time in the scores, one row at a time in the batch: from the paper's equations.

H_0 = [memory, segment, memory];  H_N = Transformer(H_0);  memory' = the last of H_N
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def naive_rmt(backbone: Any, memory: Tensor, segments: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Logits [tokens, vocab] of each segment of one row, and the memory after the last.

    memory: [memory tokens, hidden_size]; segments: token ids [tokens] each, without padding.
    """
    model, count, logits = backbone.model, len(memory), []
    for ids in segments:
        words = torch.stack([backbone.view.embeddings(token[None])[0] for token in ids])
        inputs = torch.cat((memory, words, memory))
        outputs = model(inputs_embeds=inputs[None], output_hidden_states=True, use_cache=False)
        logits.append(outputs.logits[0, count : count + len(ids)])
        memory = outputs.hidden_states[-1][0, -count:]
    return logits, memory


def naive_loss(logits: Sequence[Tensor], segments: Sequence[Tensor]) -> Tensor:
    """The mean of the mean loss of each next token in each segment, in nats."""
    means = []
    for scores, ids in zip(logits, segments, strict=True):
        losses = []
        for place in range(len(ids) - 1):
            total = torch.log(torch.exp(scores[place] - scores[place].max()).sum()) + scores[place].max()
            losses.append(total - scores[place, ids[place + 1]])
        means.append(torch.stack(losses).mean())
    return torch.stack(means).mean()
