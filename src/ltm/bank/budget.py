"""How much a memory row may hold, in tokens, chunks and events."""

from __future__ import annotations

from dataclasses import dataclass

from ltm.bank.chunks import ChunkLayout
from ltm.bank.config import BankConfig
from ltm.errors import ConfigError

FIRST_CHUNKS = 16
"""Room that the first write makes; from there it grows by a quarter at a time."""


@dataclass(frozen=True)
class RowBudget:
    """What a row may hold: so many tokens, and so many chunks and events (from a budget in bytes); None: no limit."""

    tokens: int | None
    chunks: int | None
    chunk_size: int
    events: int | None = None

    def capacity_for(self, needed: int, capacity: int) -> int:
        """Room to make for `needed` chunks: a quarter more than now, but not beyond the budget unless needed.

        A token budget is left behind where many chunks are short; then what is needed and an eighth.
        """
        grown = max(needed, capacity + capacity // 4, FIRST_CHUNKS)
        if self.tokens is not None:
            full = -(-self.tokens // self.chunk_size)
            grown = min(grown, full) if needed <= full else needed + needed // 8
        return grown if self.chunks is None else min(grown, self.chunks)


def budget_of(config: BankConfig, layout: ChunkLayout) -> RowBudget:
    """The budget of each row of a bank. Raises ConfigError where not one chunk fits."""
    chunks = events = None
    if config.memory_bytes is not None:
        share = layout.bytes_per_event / config.event_tokens  # of an event, for each of its tokens
        chunks = int((config.memory_bytes - layout.bytes_per_event) / (layout.bytes_per_chunk + share))
        events = chunks // config.event_tokens + 1
        if chunks < 1:
            least = layout.bytes_per_chunk + layout.bytes_per_event
            raise ConfigError(
                f"memory_bytes={config.memory_bytes} holds no chunk; one takes {least} bytes in this bank"
            )
    return RowBudget(config.memory_size, chunks, config.chunk_size, events)
