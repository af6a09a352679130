"""Banks with made-up keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ltm.bank import Bank, BankConfig


@pytest.fixture
def make_bank() -> Callable[..., Bank]:
    """make_bank(chunk_size=4, memory_size=100, num_rows=2, ...): a small bank."""

    def make(**options: Any) -> Bank:
        names = ("chunk_size", "memory_size", "memory_bytes", "index")
        config = BankConfig(**{name: options.pop(name) for name in names if name in options})
        return Bank(config, **{"num_rows": 1, "num_kv_heads": 2, "head_dim": 8, **options})

    return make
