"""Tensors that outlive the call that made them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def lasting_tensors() -> Iterator[None]:
    """Inside the block tensors are ordinary ones, under `torch.inference_mode()` too.

    What is made in inference mode can never be written to outside it, nor be part of training: a memory that is read
    in one call and added to in another must not hold such tensors. Gradients stay off where they were.

    >>> with torch.inference_mode(), lasting_tensors(): torch.zeros(1).is_inference()
    False
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():  # leaving inference mode would turn gradients on
        yield
