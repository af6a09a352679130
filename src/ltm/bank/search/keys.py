"""What an index sees of a memory row: its search keys, however and wherever they are stored."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class SearchKeys(Protocol):
    """The search keys of the chunks of a row; a chunk's *index* is its place among them now, 0 the oldest.

    num_chunks: how many there are. num_evicted: how many of the oldest were evicted since the index was made, so
    that num_evicted + index names a chunk for as long as it lives. dtype: what queries come in and are multiplied in.
    is_rotated: `decoded` gives keys that were centred and rotated (`ltm.bank.hadamard`) when they were quantised.
    """

    @property
    def num_chunks(self) -> int: ...

    @property
    def num_evicted(self) -> int: ...

    @property
    def num_kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def is_rotated(self) -> bool: ...

    def center(self, layer: int) -> Tensor | None:
        """What was taken from the keys before they were quantised, [kv_heads, head_dim]; None: nothing."""
        ...

    def parts(self, layer: int) -> list[Tensor] | None:
        """All keys as they lie in memory, in order, [kv_heads, chunks of the part, head_dim] each; None where they do
        not lie there as floats: quantised, in files, or derived."""
        ...

    def decoded(self, layer: int, first: int, count: int) -> Tensor:
        """Those of `count` chunks from index `first` on where `parts` gives none, [kv_heads, count, head_dim]."""
        ...
