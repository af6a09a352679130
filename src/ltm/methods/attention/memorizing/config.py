"""The Memorizing Transformer's choices, with what the paper and its released code use."""

from __future__ import annotations

from dataclasses import dataclass

from ltm.bank.eviction import eviction_problems
from ltm.configs import MOST_RETRIEVED, BankFields, RecentFields
from ltm.errors import ConfigError


@dataclass(frozen=True)
class MemorizingConfig(RecentFields, BankFields):
    """Wu et al., 2022, "Memorizing Transformers" (arXiv:2203.08913), on a pretrained backbone.

    Raises ConfigError with every problem of the values together; what depends on the backbone is checked by
    `resolved_memory_layer`.
    """

    memory_layer: int | None = None
    """Zero-based backbone layer that remembers and retrieves (paper: the 9th of 12); None: at 3/4 of the depth."""
    top_k: int = 32
    """Tokens that each query token of each head gets from memory (paper: 32; released: 128)."""
    gate_start: float = 0.05
    """Memory's weight in every head before training, between 0 and 1 (released: 0.5, trained with all else)."""
    memory_size: int = 65536
    """Most tokens remembered in each row; the oldest leave first (paper: up to 262,144; released: 8,192)."""
    segment_size: int = 256
    """Tokens encoded together when reading and training (paper: 512, beside a cache of the 512 before)."""

    LEAST = {"top_k": 1}
    MOST = {"top_k": MOST_RETRIEVED}

    def problems(self) -> list[str]:
        found = [*super().problems(), *eviction_problems(self.evict)]
        if not 0 < self.gate_start < 1:
            found.append(f"gate_start={self.gate_start}; use a share between 0 and 1, such as 0.05")
        return found

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
