"""What the training loop needs of a method: nothing here or in the loop knows which method it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class TrainableMethod(Protocol):
    """An nn.Module whose trained parameters sit beside a frozen backbone.

    Called as method(input_ids=, attention_mask=, labels=, remember=True): an output whose `.loss` is the mean
    over the labels after each row's first that are not -100. `bank` holds the memory of all rows and can be
    set; None is an empty memory, and the next call that remembers makes a new one.
    """

    bank: Any

    def __call__(self, **inputs: Any) -> Any: ...
    def reset(self, rows: Any = None) -> None: ...
    def trainable_parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def save_pretrained(self, path: str | Path) -> None: ...
    def memory_off(self) -> AbstractContextManager[None]: ...
    def gate_summary(self) -> dict[str, float]: ...
    def activation_checkpointing_enable(self) -> None: ...
    def train(self, mode: bool = True) -> Any: ...
    def to(self, device: Any) -> Any: ...


@contextmanager
def set_aside_memory(method: TrainableMethod) -> Iterator[None]:
    """Inside the block the method starts with an empty memory; afterwards it has its own back, untouched."""
    kept, method.bank = method.bank, None
    try:
        yield
    finally:
        method.bank = kept


def save_memory(method: TrainableMethod, path: Path) -> None:
    """Write the memory, if there is one yet."""
    if method.bank is not None:
        method.bank.save(path)


def load_memory(method: TrainableMethod, path: Path, device: torch.device) -> None:
    """Put back what `save_memory` wrote; read whole, because the checkpoint it lies in is removed in time."""
    if not path.exists():
        method.bank = None
        return
    method.bank = _bank_class(method).load(path, device=device, mmap=False)


def _bank_class(method: TrainableMethod) -> Any:
    """The kind of bank a method has; before it has one, the library's."""
    if method.bank is not None:
        return type(method.bank)
    from ltm.bank import Bank

    return Bank


def forget_rows(method: TrainableMethod, starts: Tensor) -> None:
    """Reset the memory of the rows that begin a document; starts: bool [rows]."""
    if bool(starts.any()):
        method.reset(rows=starts.nonzero().flatten())
