"""How solved examples become a method's past: as one text, read once into memory row 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ltm.tasks.scoring import start_tokens, text_tokens

if TYPE_CHECKING:
    from ltm.methods import Reader


def read_demonstrations(
    method: Reader, tokenizer: Any, demonstrations: Sequence[str], separator: str, reserved: int
) -> int:
    """Let a method that was reset read demonstrations, joined by `separator`; returns how many it read.

    reserved: most tokens that will follow. A method whose stream ends (`full`) reads the last demonstrations that
    leave room for them; all others read all.
    """
    limit = method.max_stream_tokens
    if limit is not None:
        demonstrations = _last_that_fit(tokenizer, demonstrations, separator, limit - reserved)
    if demonstrations:
        ids = start_tokens(tokenizer) + text_tokens(tokenizer, separator.join(demonstrations))
        method.read(torch.tensor([ids], device=method.device), memory_rows=torch.zeros(1, dtype=torch.long))
    return len(demonstrations)


def _last_that_fit(tokenizer: Any, demonstrations: Sequence[str], separator: str, room: int) -> Sequence[str]:
    """The longest end of the list that has at most `room` tokens with a separator before each and a start token."""
    room -= len(start_tokens(tokenizer))
    for index in range(len(demonstrations) - 1, -1, -1):
        room -= len(text_tokens(tokenizer, separator + demonstrations[index]))
        if room < 0:
            return demonstrations[index + 1 :]
    return demonstrations
