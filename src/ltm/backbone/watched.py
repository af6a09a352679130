"""What tells that tensors have changed, without reading all of them each time; and digests of what they hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ltm.errors import LtmError

Named = tuple[str, Tensor]
Value = TypeVar("Value")

SAMPLES = 16
"""Elements of each tensor that are compared bit for bit at every look: `weight.data += ...`, by which adapters are
merged, changes no version counter."""
TURNS = 32
"""Looks in which every bit is read once. Decoding a token reads all weights, so a look costs a 32nd of that: 1 ms for
SmolLM2-135M on one core."""


class Watched(Generic[Value]):
    """A value that is worked out of tensors, and worked out again where a look says that they have changed.

    A look compares where each tensor lies, its version counter and 16 of its elements, and a sum over the bits of a
    32nd of them all, of another part each time. So every change that PyTorch counts is seen at once (steps of an
    optimizer, `load_state_dict`, `weight[3, 5] = 0`), and every other that changes a tensor as a whole; a few single
    elements written through `.data` or NumPy are seen within 32 looks.

    >>> watched = Watched()
    >>> watched.of([("weight", torch.ones(3))], lambda: "worked out")
    'worked out'
    """

    def __init__(self) -> None:
        self._signature: Any = None
        self._sums: list[tuple[int, ...]] = []
        self._turn = 0

    @torch.no_grad()
    def of(self, tensors: Sequence[Named], take: Callable[[], Value], others: Any = None) -> Value:
        """The value that `take` works out of tensors and `others` (what else it depends on, compared by `==`)."""
        signature = (signature_of(tensors), others)
        self._turn = (self._turn + 1) % TURNS
        if self._signature != signature or self._sums[self._turn] != bit_sums(tensors, self._turn):
            self._value = take()
            self._sums = [bit_sums(tensors, turn) for turn in range(TURNS)]
            self._signature = signature
        return self._value


def signature_of(tensors: Sequence[Named]) -> tuple[Any, ...]:
    """Of every tensor its name, where it lies and its version counter; and the bits of a few of its elements."""
    samples: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    places = []
    for name, tensor in tensors:
        places.append((name, tensor.data_ptr(), None if tensor.is_inference() else tensor._version))
        few = sample_of(tensor, SAMPLES)
        samples.setdefault((few.device, few.dtype), []).append(few)
    bits = tuple(torch.cat(group).view(torch.uint8).cpu().numpy().tobytes() for group in samples.values())
    return tuple(places), bits


def bit_sums(tensors: Sequence[Named], turn: int) -> tuple[int, ...]:
    """Sums of the bits, read as whole numbers, of the part of all elements whose turn it is (0 to TURNS - 1)."""
    total = sum(tensor.numel() for _, tensor in tensors)
    low, high = total * turn // TURNS, total * (turn + 1) // TURNS
    sums, before = [], 0
    for _, tensor in tensors:
        first, last = (_cut(edge - before, tensor.numel()) for edge in (low, high))
        if first < last:
            sums.append(_bit_sum(tensor.detach().reshape(-1)[first:last]))
        before += tensor.numel()
    return tuple(int(part) for part in sums)


def _cut(edge: int, size: int) -> int:
    """Where a tensor of so many elements is cut: at a multiple of 8 of them, whose bits can be read as int64."""
    return size if edge >= size else max(edge, 0) // 8 * 8


def _bit_sum(flat: Tensor) -> Tensor:
    """int64 []; seven times as fast as a sum of elements of 2 bytes each."""
    words = 8 // flat.element_size()
    whole = 0 if flat.storage_offset() % words else len(flat) // words * words
    rest = flat[whole:].contiguous().view(torch.uint8).sum()
    return rest + flat[:whole].view(torch.int64).sum() if whole else rest


def sample_of(tensor: Tensor, most: int) -> Tensor:
    """So many elements or fewer, at an odd stride: an even one could stay in one column."""
    if tensor.is_meta:
        raise LtmError("the model's weights are not in memory (offloaded); load it whole to use it as a backbone.")
    flat = tensor.reshape(-1)
    stride = -(-flat.numel() // most) | 1
    return flat[:: max(stride, 1)]


def digest_of(tensors: Iterable[Tensor]) -> str:
    """The first 16 hexadecimal digits of sha256 over every bit of tensors, in this order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()[:16]


def digest_in_threads(tensors: Sequence[Named]) -> str:
    """sha256 over names, shapes and every bit, hexadecimal: 1.1 GB a second on each core."""
    tensors = sorted(tensors, key=lambda named: named[0])
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda named: hashlib.sha256(_bytes_of(named[1])).hexdigest(), tensors)
        lines = [
            f"{name}{tuple(tensor.shape)}{digest}" for (name, tensor), digest in zip(tensors, digests, strict=True)
        ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _bytes_of(tensor: Tensor) -> Any:
    """A tensor's bytes in order, for hashlib; of one on the CPU without a copy."""
    return tensor.detach().reshape(-1).cpu().view(torch.uint8).numpy()
