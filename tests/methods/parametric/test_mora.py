"""MoRA's square update against a naive one, and the paper's defaults."""

from __future__ import annotations

import pytest
import torch
from reference.mora import naive_mora, naive_size
from torch import nn

from ltm.errors import ConfigError
from ltm.methods.parametric.mora import MoraConfig, SquareUpdate, matrix_size

SHAPES = [(12, 12, 3), (12, 40, 2), (40, 12, 2), (7, 9, 1), (3, 50, 4)]
"""Widths in and out, and rank: groups that fit, that are filled up, fewer outputs than a group has, and x filled up
with itself more than once."""


def update(inputs, outputs, rank, groups):
    torch.manual_seed(0)
    made = SquareUpdate(nn.Linear(inputs, outputs).double(), rank, groups == "rotate").double()
    nn.init.normal_(made.matrix)
    return made


@pytest.mark.parametrize("groups", ["rotate", "share"])
@pytest.mark.parametrize("inputs, outputs, rank", SHAPES)
def test_the_update_and_its_gradients_equal_the_naive_ones(inputs, outputs, rank, groups):
    made = update(inputs, outputs, rank, groups)
    assert len(made.matrix) == max(naive_size(inputs, outputs, rank, made.rotate), 2 if made.rotate else 1)
    x = torch.randn(2, 3, inputs, dtype=torch.float64, requires_grad=True)
    naive = torch.stack([naive_mora(token, made.matrix, outputs, made.rotate) for token in x.flatten(0, 1)])
    found, pull = made(x) - made.base(x), torch.randn(2, 3, outputs, dtype=torch.float64)
    torch.testing.assert_close(found.flatten(0, 1), naive)
    slow = torch.autograd.grad((naive * pull.flatten(0, 1)).sum(), (made.matrix, x))
    fast = torch.autograd.grad((made.update(x) * pull).sum(), (made.matrix, x))
    for one, other in zip(fast, slow, strict=True):
        assert float(one.abs().max()) > 0
        torch.testing.assert_close(one, other)


def test_turned_groups_are_not_shared_ones():
    x = torch.randn(1, 40, dtype=torch.float64)
    one, other = update(40, 40, 2, "rotate"), update(40, 40, 2, "share")
    other.matrix.data = one.matrix.data
    assert not torch.allclose(one.update(x), other.update(x), atol=0.1)


def test_a_matrix_has_as_many_numbers_as_lora_of_its_rank():
    """The paper's own example: 4096 x 4096 at rank 8 gives a matrix of 256 x 256."""
    assert matrix_size(4096, 4096, 8) == 256
    assert matrix_size(576, 1536, 8) ** 2 == pytest.approx((576 + 1536) * 8, rel=0.01)


def test_its_rank_is_that_of_the_matrix_and_not_lora_s():
    """Figure 1 of the paper: high-rank updating."""
    made = update(64, 64, 2, "rotate")
    change = made.update(torch.eye(64, dtype=torch.float64))
    assert int(torch.linalg.matrix_rank(change)) > 8 * 2


def test_the_paper_s_defaults():
    """README of kongds/MoRA: rank 8, type 6, all matrices of the layers."""
    config = MoraConfig()
    assert (config.rank, config.groups, config.modules) == (8, "rotate", "all")


def test_all_problems_of_a_config_are_told_together():
    with pytest.raises(ConfigError, match=r"rank=0.*groups='six'.*read_rate=-1"):
        MoraConfig(rank=0, groups="six", read_rate=-1)  # type: ignore[arg-type]
