"""H2O: the paper's choices, and the fast path against the naive reference."""

from __future__ import annotations

import pytest
import torch
from reference.h2o import NaiveH2o
from rules import check_against_reference, hold

from ltm.errors import ConfigError
from ltm.methods.cache.h2o import H2o, H2oConfig


def test_the_papers_defaults():
    """Half heavy hitters and half recent tokens (1,024 each in the released code), each head for itself."""
    config = H2oConfig()
    assert (config.budget, config.recent, config.heads, config.positions) == (2048, 0.5, "own", "true")


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 6, "block": 1},
        {"budget": 6, "block": 5},
        {"budget": 7, "block": 4, "recent": 0.3},
        {"budget": 5, "block": 3, "positions": "cache"},
        {"budget": 2, "block": 4, "budget_share": 0.4},
    ],
    ids=str,
)
def test_it_equals_the_reference(tiny_backbone, options):
    method = H2o(tiny_backbone("tiny-llama", "float64"), H2oConfig(**options))
    check_against_reference(method, NaiveH2o(method))


def test_sums_grow_with_every_query_and_recent_tokens_stay(tiny_backbone):
    method = H2o(tiny_backbone("tiny-llama", "float64"), H2oConfig(budget=2, recent=0.5, block=3))
    held = hold(places=[0, 1, 2])
    first = torch.tensor([[0.2, 0.8, 0.0], [0.6, 0.4, 0.0]], dtype=torch.float64)
    second = torch.tensor([[0.5, 0.1, 0.4], [0.1, 0.1, 0.8]], dtype=torch.float64)
    both = torch.stack((first, second), dim=1)  # [kv_heads, queries, slots]
    method.note(0, held, both.view(1, 2, 1, 2, 3), torch.tensor([[1, 2]]))
    torch.testing.assert_close(held.note("received")[0], first + second)
    assert method.keep(0, held).tolist() == [[[False, True, True], [True, False, True]]]


def test_a_share_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"recent=1\.5; use 1 or less"):
        H2oConfig(recent=1.5)
