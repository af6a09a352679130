"""What tokenizers, collators and pipelines hand out beside token ids and their mask: taken where it says the same."""

from __future__ import annotations

import inspect
import warnings

import torch
from torch import Tensor, nn

from ltm.errors import LtmError


def check_positions(position_ids: Tensor | None, mask: Tensor, new: int) -> None:
    """Raise LtmError where positions are not those that the mask gives: methods place tokens themselves.

    position_ids: int64 [batch or 1, new tokens or more, the last ones count]; mask: bool [batch, all tokens so far],
    False = padding, which may stand anywhere and at any position.
    """
    if position_ids is None:
        return
    expected, valid = (mask.long().cumsum(dim=1) - 1)[:, -new:], mask[:, -new:]
    shape = tuple(position_ids.shape)
    fits = len(shape) == 2 and shape[0] in (1, len(mask)) and shape[1] >= new
    if not fits or bool(((position_ids[:, -new:].to(mask.device) != expected) & valid).any()):
        raise LtmError(
            f"position_ids {list(shape)} are not those of the attention mask, which count each row's tokens; a method "
            "places its tokens itself: leave position_ids out, and give each text a row of its own"
        )


def check_token_types(token_type_ids: Tensor | None, model: nn.Module) -> None:
    """Raise LtmError for token types where the model would heed them; where it has none they say nothing."""
    if token_type_ids is not None and "token_type_ids" in inspect.signature(type(model).forward).parameters:
        raise LtmError(
            f"{type(model).__name__} heeds token_type_ids, which memory does not keep; leave them out "
            "(return_token_type_ids=False)"
        )


def left_padded(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts [batch, tokens] with their padding at the left, so that generation goes on from their last tokens.

    Warns, as transformers does, where padding stood at the right.
    """
    mask = mask[:, -ids.shape[1] :].bool()
    ends = mask[:, -1] | ~mask.any(dim=1)
    if bool(ends.all()):
        return ids, mask
    warnings.warn(
        "prompts are padded at the right; they were moved to go on from their last tokens: set "
        "tokenizer.padding_side = 'left' for generation",
        stacklevel=2,
    )
    order = torch.argsort(mask.to(torch.uint8), dim=1, stable=True)  # padding first, tokens as they were
    return ids.gather(1, order), mask.gather(1, order)
