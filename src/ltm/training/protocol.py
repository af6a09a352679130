"""What the training loop needs of a method: nothing here or in the loop knows which method it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from .stream import Batch


class TrainableMethod(Protocol):
    """An nn.Module whose trained parameters sit beside a frozen backbone.

    Called as method(input_ids=, attention_mask=, labels=, memory=, remember=True): an output whose `.loss` is the mean
    over the labels after each row's first that are not -100. memory: one of `new_memory`, which then holds the batch
    too; None: nothing is remembered.
    """

    backbone: Any
    uses_memory: bool
    in_training: bool

    def __call__(self, **inputs: Any) -> Any: ...
    def new_memory(self, rows: int = 0) -> Any: ...
    def load_memory(self, path: str | Path, *, mmap: bool) -> Any: ...
    def reset(self, rows: Any = None, *, memory: Any) -> None: ...
    def trainable_parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def save_pretrained(self, path: str | Path) -> None: ...
    def gate_summary(self) -> dict[str, float]: ...
    def activation_checkpointing_enable(self) -> None: ...
    def train(self, mode: bool = True) -> Any: ...
    def to(self, device: Any) -> Any: ...


def empty_memory(method: TrainableMethod, rows: int) -> Any:
    """A memory of so many rows; None for a method that is told to use none."""
    return method.new_memory(rows) if method.uses_memory else None


def inputs_of(method: TrainableMethod, batch: Batch, memory: Any, device: torch.device) -> dict[str, Any]:
    """What a method is called with to score a batch and remember it; rows that begin a document have forgotten."""
    moved = batch.to(device)
    if memory is not None and bool(moved.starts.any()):
        method.reset(moved.starts.nonzero().flatten(), memory=memory)
    return {
        "input_ids": moved.input_ids,
        "attention_mask": moved.attention_mask,
        "labels": moved.labels,
        "memory": memory,
        "remember": True,
    }
