"""What the training loop needs of a method: nothing here or in the loop knows which method it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn


class TrainableMethod(Protocol):
    """An nn.Module whose trained parameters sit beside a frozen backbone.

    Called as method(input_ids=, attention_mask=, labels=, remember=True): an output whose `.loss` is the mean
    over the labels after each row's first that are not -100. `memory` holds the memory of all rows and can be set.
    """

    memory: Any

    def new_memory(self) -> Any: ...
    def load_memory(self, path: Path, *, mmap: bool) -> Any: ...

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
    kept, method.memory = method.memory, method.new_memory()
    try:
        yield
    finally:
        method.memory = kept


def save_memory(method: TrainableMethod, path: Path) -> None:
    """Write the memory, if there is something in it."""
    if not method.memory.is_empty:
        method.memory.save(path)


def load_memory(method: TrainableMethod, path: Path) -> None:
    """Put back what `save_memory` wrote; read whole, because the checkpoint it lies in is removed in time."""
    method.memory = method.load_memory(path, mmap=False) if path.exists() else method.new_memory()


def forget_rows(method: TrainableMethod, starts: Tensor) -> None:
    """Reset the memory of the rows that begin a document; starts: bool [rows]."""
    if bool(starts.any()):
        method.reset(rows=starts.nonzero().flatten())


def detach_memory(method: TrainableMethod) -> None:
    """Cut what is remembered off from the graph that made it."""
    getattr(method.memory, "detach", lambda: None)()
