"""What a method is and costs, as a result says it: bytes a token, and which weights it was."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ltm.methods import Reader

PROBE_TOKENS = 64
"""Tokens that a method reads to show whether it has a bank."""


def bytes_per_token(method: Reader) -> float | None:
    """Bytes that each remembered token takes: a bank's entries, or what a stream without an end keeps.

    None for a method that keeps nothing beyond its window, or in a form that this cannot see. Forgets what was read.
    """
    method.reset()
    method.read(torch.zeros(1, PROBE_TOKENS, dtype=torch.long, device=method.device))
    bank = method.bank
    holds = bank is not None and bank.num_rows > 0 and bank.num_tokens(0) > 0
    method.reset()
    if bank is not None:
        if not holds:
            return None
        of_events = bank.layout.bytes_per_event / bank.config.event_tokens  # at most: 0 without events
        return bank.layout.bytes_per_chunk / bank.config.chunk_size + of_events
    return method.stream_bytes_per_token


def trained_hash(method: Reader) -> str | None:
    """sha256 of a method's trained weights; None where it has none."""
    state = method.trained_state()
    if not state:
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
