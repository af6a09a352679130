"""What tokens get of attention: the softmax weights that some queries of a call give to what they see.

The usual kernels keep the weights to themselves but tell their log-sum-exp, with which the weights of a few queries
cost one product: exp(logit - lse).
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_weights(
    query: Tensor, keys: Tensor, lse: Tensor, seen: Tensor | None, scaling: float, softcap: float | None = None
) -> Tensor:
    """Softmax weights [batch, heads, tokens, slots] of queries over keys, in the dtype of `lse`.

    query: [batch, heads, tokens, head_dim]; keys: [batch, kv_heads, slots, head_dim]; lse: [batch, heads, tokens], the
    log-sum-exp of the whole softmax, of which these keys may be a part; seen: bool, as wide as the result or
    broadcast to it, None = everything; scaling and softcap as in `attend`. A query that sees nothing gives zeros.

    >>> query, keys = torch.randn(1, 2, 3, 4), torch.randn(1, 1, 5, 4)
    >>> partial = attend(query, keys, keys, None, scaling=0.5)
    >>> torch.allclose(attention_weights(query, keys, partial.lse, None, 0.5), partial.weights)
    True
    """
    batch, heads, tokens, _ = query.shape
    grouped = query.reshape(batch, keys.shape[1], -1, query.shape[-1]).to(keys.dtype)
    logits = torch.matmul(grouped, keys.transpose(-1, -2)).view(batch, heads, tokens, -1).to(lse.dtype).mul_(scaling)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    weights = logits.sub_(lse.clamp(min=torch.finfo(lse.dtype).min)[..., None]).exp_()
    return weights if seen is None else weights.masked_fill(~seen, 0.0)


def asking_columns(asking: Tensor) -> Tensor:
    """Columns of which some row asks, int64 [columns], from bool [batch, tokens]."""
    return asking.any(dim=0).nonzero().squeeze(1)
