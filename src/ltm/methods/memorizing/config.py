"""The Memorizing Transformer's choices, with what the paper and its released code use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ltm.bank.eviction import eviction_problems
from ltm.bank.storage import storage_problems
from ltm.errors import ConfigError
from ltm.methods.checks import recent_problems, stride_problems, value_problems


@dataclass(frozen=True)
class MemorizingConfig:
    """Wu et al., 2022, "Memorizing Transformers" (arXiv:2203.08913), on a pretrained backbone.

    Raises ConfigError with every problem of the values together; what depends on the backbone is checked by
    `resolved_memory_layer`.
    """

    memory_layer: int | None = None
    """Zero-based backbone layer that remembers and retrieves (paper: the 9th of 12); None: at 3/4 of the depth."""
    top_k: int = 32
    """Tokens that each query token of each head gets from memory (paper: 32; released: 128)."""
    memory_size: int = 65536
    """Most tokens remembered in each row; the oldest leave first (paper: up to 262,144; released: 8,192)."""
    memory_bytes: int | None = None
    """Most bytes of memory in each row, keys, values, token ids and spans; None: memory_size alone decides."""
    gate_start: float = 0.05
    """Memory's weight in every head before training, between 0 and 1 (released: 0.5, trained with all else)."""
    segment_size: int = 256
    """Tokens encoded together when reading and training (paper: 512, beside a cache of the 512 before)."""
    local_window: int = 1024
    """Most tokens of the present that attention sees beside memory."""
    stride: int | None = None
    """Tokens that go to memory when the window is full; None: half of the window."""
    recent_tokens: int = 0
    """Tokens read last that stand in the window, too, before what is asked; at most local_window less one."""
    key_storage: Literal["float32", "float16", "bfloat16", "int8", "int4"] | None = None
    """Keys in a new memory: as floats, or codes of 8 or 4 bits (docs/bank-format.md); None: as computed."""
    value_storage: Literal["float32", "float16", "bfloat16", "int8", "int4"] | None = None
    """Values, in the same way."""
    search_storage: Literal["float32", "float16", "bfloat16", "int8", "int4", "derived"] | None = None
    """Search keys, in the same way, or 'derived' from the stored keys at each search: no bytes, and more time."""
    evict: str = "oldest"
    """What leaves a full memory first: 'oldest', 'least_recent' or 'least_frequent' (retrieved), or a name of yours."""
    index: Literal["auto", "exact", "approximate", "faiss", "qdrant"] = "auto"
    """Search over keys: 'exact', 'approximate', 'auto' (exact up to 131,072 chunks a row, then approximate once it
    pays), 'faiss' or 'qdrant' (extras)."""

    def __post_init__(self) -> None:
        problems = value_problems(self, _LEAST)
        if self.memory_bytes is not None and self.memory_bytes < 1:
            problems.append(f"memory_bytes={self.memory_bytes}; use 1 or more, or None")
        if not 0 < self.gate_start < 1:
            problems.append(f"gate_start={self.gate_start}; use a share between 0 and 1, such as 0.05")
        problems += stride_problems(self.local_window, self.stride)
        problems += recent_problems(self.local_window, self.recent_tokens)
        problems += value_problems(self, {}, {"index": _INDEXES})
        problems += storage_problems(self)
        problems += eviction_problems(self.evict)
        if problems:
            raise ConfigError(problems)

    def resolved_memory_layer(self, num_layers: int) -> int:
        """memory_layer, or the layer at three quarters of the depth; ConfigError where the backbone has no such."""
        if self.memory_layer is None:
            return max(3 * num_layers // 4 - 1, 0)
        if not 0 <= self.memory_layer < num_layers:
            raise ConfigError(f"memory_layer={self.memory_layer}; the backbone has layers 0 to {num_layers - 1}")
        return self.memory_layer

    @classmethod
    def tiny(cls) -> MemorizingConfig:
        """Small enough that a few dozen tokens fill windows and memory, for the contract tests."""
        return cls(top_k=5, memory_size=40, gate_start=0.5, segment_size=8, local_window=12)


_LEAST = {"top_k": 1, "memory_size": 1, "segment_size": 2, "local_window": 2}
_INDEXES = ("auto", "exact", "approximate", "faiss", "qdrant")
