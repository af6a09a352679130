"""The output head's input, laid out so that a processor multiplies it as fast as it can."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def lay_out_input(head: nn.Module | None) -> None:
    """Hand an output head its input in one piece, from now on; once is enough, and what it gives stays the same.

    Of the last tokens of a text transformers gives the head a slice of all hidden states. For a slice oneDNN copies the
    head's weights at every call: in bf16 100 ms instead of 4 for SmolLM2-135M, 1.4 s instead of 0.02 for Gemma 3 270M.
    """
    if head is not None and _in_one_piece not in head._forward_pre_hooks.values():
        head.register_forward_pre_hook(_in_one_piece)


def _in_one_piece(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_packed(part) if isinstance(part, Tensor) else part for part in inputs)


def _packed(tensor: Tensor) -> Tensor:
    """The same values with the strides of a new tensor; `contiguous` leaves those of axes of length 1 as they are."""
    size, strides = 1, list[int]()
    for length in reversed(tensor.shape):
        strides.insert(0, size)
        size *= length
    return tensor if list(tensor.stride()) == strides else tensor.new_empty(tensor.shape).copy_(tensor)
