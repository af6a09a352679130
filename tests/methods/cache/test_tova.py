"""TOVA: the paper's choices, and the fast path against the naive reference."""

from __future__ import annotations

import pytest
import torch
from reference.tova import NaiveTova
from rules import check_against_reference, hold

from ltm.methods.cache.tova import Tova, TovaConfig


def test_the_papers_defaults():
    """The released example's multi_state_size, one choice for all heads of a layer, positions as they were."""
    config = TovaConfig()
    assert (config.budget, config.heads, config.positions, config.budget_share) == (512, "same", "true", 0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 6, "block": 1},
        {"budget": 6, "block": 5},
        {"budget": 6, "block": 4, "heads": "own"},
        {"budget": 5, "block": 3, "positions": "cache"},
        {"budget": 2, "block": 4, "budget_share": 0.4},
    ],
    ids=str,
)
def test_it_equals_the_reference(tiny_backbone, options):
    method = Tova(tiny_backbone("tiny-llama", "float64"), TovaConfig(**options))
    check_against_reference(method, NaiveTova(method))


def test_what_the_last_token_of_a_block_attends_to_least_leaves(tiny_backbone):
    """Weights made up: three slots of two heads; by their mean the second is the weakest, though no head's."""
    method = Tova(tiny_backbone("tiny-llama", "float64"), TovaConfig(budget=2, block=3))
    held = hold(places=[0, 1, 2])
    weights = torch.tensor([[0.1, 0.3, 0.6], [0.5, 0.2, 0.3]], dtype=torch.float64)
    method.note(0, held, weights.view(1, 2, 1, 1, 3), torch.tensor([[2]]))
    assert method.keep(0, held).tolist() == [[[True, False, True], [True, False, True]]]
