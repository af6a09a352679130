"""Masks of token batches: what the caller gave, as bool [batch, columns] with False for padding."""

from __future__ import annotations

import torch
from torch import Tensor

from ltm.errors import LtmError


def window_positions(mask: Tensor) -> Tensor:
    """Positions within the window from a mask bool [batch, tokens]: valid tokens count from 0, padding sits at 0."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def new_columns(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor:
    """bool [batch, new tokens] from what the caller gave (maybe the mask of the whole stream)."""
    if input_ids.dim() != 2:
        raise LtmError(f"input_ids has shape {list(input_ids.shape)}; it needs [batch, tokens]")
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask.dim() != 2 or attention_mask.shape[1] < input_ids.shape[1]:
        raise LtmError(f"attention_mask {list(attention_mask.shape)} does not cover input_ids {list(input_ids.shape)}")
    return attention_mask[:, -input_ids.shape[1] :].bool()


def stream_mask(attention_mask: Tensor | None, input_ids: Tensor, seen: int) -> Tensor:
    """bool [batch, seen + new tokens]: the caller's mask of the whole stream; where it is of the new columns alone,
    what came before counts as tokens."""
    if attention_mask is not None and attention_mask.shape[1] == seen + input_ids.shape[1]:
        return attention_mask.bool()
    new = new_columns(attention_mask, input_ids)
    return torch.cat((new.new_ones(len(new), seen), new), dim=1)
