"""Views: the sets of keys and values that one attention call looks at, and how their results become one.

A view is attended on its own, which gives an output and the log-sum-exp of its logits; two or more are merged
either by one shared softmax (exact: a weighted mean with weights exp(lse_i - lse_total), the rule of
RelayAttention and FlashDecoding) or by a learned gate per head (LongMem, Memorizing Transformers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

_FLASH: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""torch's fused attention for CPUs, called by its name because the public function keeps the log-sum-exp to itself."""


class Partial(NamedTuple):
    """What one view contributes: output [batch, heads, tokens, head_dim], lse [batch, heads, tokens] (-inf where the
    view offers nothing), weights [batch, heads, tokens, slots] (the view's own softmax; None: not asked for)."""

    output: Tensor
    lse: Tensor
    weights: Tensor | None


@dataclass
class View:
    """Extra keys and values for one attention call, beside the local ones.

    keys, values: [batch, kv_heads, slots, head_dim], the same for every query token, or
        [batch, heads, tokens, slots, head_dim], chosen for each query token (retrieval).
    mask: bool [batch, 1 or heads, tokens or 1, slots], False where a slot holds nothing; None: all hold something.
    position_free: whether the keys carry no position, so that the un-rotated query meets them.
    gate: None for one softmax shared with the local view, else [heads] weights of the *local* side in 0..1.

    A view of another kind (keys placed elsewhere, fetched piece by piece) overrides `partial`.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None
    position_free: bool = True
    gate: Tensor | None = None

    def partial(self, free: Tensor, local: Tensor, scaling: float, softcap: float | None) -> Partial:
        """What the view contributes for the call's query, given without its positions and as the local view has it."""
        return attend(free if self.position_free else local, self.keys, self.values, self.mask, scaling, softcap)


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float | None = None,
    weights: bool = True,
) -> Partial:
    """Softmax attention of each query over one view, with its log-sum-exp.

    query: [batch, heads, tokens, head_dim]; keys, values and mask as in `View`; `scaling` multiplies the logits;
    `softcap` bounds them by softcap * tanh(logits / softcap) (Gemma 2). A query that may see nothing gets a zero
    output and lse -inf. Logits and softmax are in float32 at least. weights: False where the softmax weights are not
    needed, which is several times faster on a CPU.

    >>> q = torch.randn(1, 2, 3, 4)
    >>> attend(q, torch.randn(1, 1, 5, 4), torch.randn(1, 1, 5, 4), None, 0.5).output.shape
    torch.Size([1, 2, 3, 4])
    """
    if not weights and _flash_fits(query, keys, softcap):
        return _flash(query, keys, values, mask, scaling)
    logits = _logits(query, keys, scaling)  # [batch, heads, tokens, slots]
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    lse = torch.logsumexp(logits, dim=-1)  # [batch, heads, tokens]
    shares = torch.exp(logits - lse.clamp(min=torch.finfo(lse.dtype).min)[..., None])
    return Partial(_weighted_values(shares.to(values.dtype), values, query), lse, shares)


def _flash_fits(query: Tensor, keys: Tensor, softcap: float | None) -> bool:
    """Whether the fused kernel computes this: on a CPU, without a cap or a gradient (its log-sum-exp has none)."""
    needs_gradient = torch.is_grad_enabled() and (query.requires_grad or keys.requires_grad)
    return (
        query.device.type == "cpu" and keys.dim() == 4 and keys.shape[2] > 0 and softcap is None and not needs_gradient
    )


def _flash(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float) -> Partial:
    """`attend` by the fused kernel."""
    batch, heads, tokens, _ = query.shape
    kv_heads = keys.shape[1]
    grouped = _group_heads(query.to(keys.dtype), kv_heads)  # [batch, kv_heads, group * tokens, head_dim]
    bias = None if mask is None else _grouped_bias(mask, heads // kv_heads, grouped, keys.shape[2])
    output, lse = _FLASH(grouped, keys, values, attn_mask=bias, scale=scaling)
    output, lse = output.reshape(batch, heads, tokens, -1), lse.reshape(batch, heads, tokens)
    if mask is not None:
        lse = lse.masked_fill(~mask.any(dim=-1), float("-inf"))  # the kernel's is 0 there, and its output 0
    return Partial(output.to(query.dtype), lse, None)


def _grouped_bias(mask: Tensor, group: int, grouped: Tensor, slots: int) -> Tensor:
    """What is added to the logits of grouped queries, [batch, 1 or kv_heads, group * tokens, slots]: 0 or -inf."""
    batch, kv_heads, rows, _ = grouped.shape
    bias = torch.zeros(mask.shape, dtype=grouped.dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
    bias = bias.expand(batch, -1, rows // group, slots)
    if bias.shape[1] == 1:
        return bias.repeat(1, 1, group, 1)
    return bias.reshape(batch, kv_heads, rows, slots)


def total_lse(partials: Sequence[Partial]) -> Tensor:
    """The log-sum-exp of all views together, [batch, heads, tokens]; -inf where none offers anything."""
    return torch.logsumexp(torch.stack([partial.lse for partial in partials]), dim=0)


def merge_softmax(partials: Sequence[Partial]) -> Tensor:
    """One softmax over several views: [batch, heads, tokens, head_dim]; zero where no view offers anything."""
    lse = torch.stack([partial.lse for partial in partials])  # [views, batch, heads, tokens]
    total = torch.logsumexp(lse, dim=0).clamp(min=torch.finfo(lse.dtype).min)
    shares = torch.exp(lse - total)[..., None]
    outputs = torch.stack([partial.output.to(shares.dtype) for partial in partials])
    return (shares * outputs).sum(dim=0).to(partials[0].output.dtype)


def merge_gate(local: Tensor, memory: Partial, gate: Tensor) -> Tensor:
    """gate * local + (1 - gate) * memory per head; all local where memory offers nothing.

    local: [batch, heads, tokens, head_dim]; gate: [heads], the local side's weight (Wang et al., 2023, eq. 5 has
    the sigmoid on the local side, the released code on the memory side: one is the other's sign).
    """
    weight = gate.view(1, -1, 1).expand(memory.lse.shape)
    weight = torch.where(torch.isneginf(memory.lse), torch.ones_like(weight), weight)[..., None].to(local.dtype)
    return weight * local + (1 - weight) * memory.output.to(local.dtype)


def _logits(query: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """[batch, heads, tokens, slots] in float32 at least."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    if keys.dim() == 5:  # own keys for every query token: a matrix-vector product each
        products = torch.matmul(keys, query.to(keys.dtype).unsqueeze(-1)).squeeze(-1)
        return products.to(dtype) * scaling
    grouped = _group_heads(query.to(keys.dtype), keys.shape[1])  # [batch, kv_heads, group * tokens, head_dim]
    products = torch.matmul(grouped, keys.transpose(-1, -2))
    return products.view(*query.shape[:3], keys.shape[2]).to(dtype) * scaling


def _weighted_values(weights: Tensor, values: Tensor, query: Tensor) -> Tensor:
    """[batch, heads, tokens, head_dim] in the query's dtype."""
    if values.dim() == 5:
        return torch.matmul(weights.unsqueeze(-2), values).squeeze(-2).to(query.dtype)
    grouped = _group_heads(weights, values.shape[1])
    return torch.matmul(grouped, values).view(query.shape[:3] + values.shape[-1:]).to(query.dtype)


def _group_heads(states: Tensor, kv_heads: int) -> Tensor:
    """[batch, heads, tokens, n] -> [batch, kv_heads, group * tokens, n]: query heads that share one key head."""
    batch, heads, tokens, width = states.shape
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} key heads")
    return states.reshape(batch, kv_heads, heads // kv_heads * tokens, width)
