"""Rows of named tensors: shared until written to, undone, saved."""

from __future__ import annotations

import pytest
import torch

from ltm.streams.tensor_memory import TensorMemory


class Numbers(TensorMemory):
    kind = "numbers"


START = {"a": torch.zeros(3), "b": torch.zeros(2, 2)}


def memory() -> Numbers:
    numbers = Numbers(3, facts={"layer": 2})
    numbers.put([2, 0], {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, 2, 2)})
    return numbers


def test_rows_are_put_and_stacked_with_what_an_unread_row_starts_from():
    stacked = memory().stacked([0, 1, 2], START)
    assert stacked["a"].tolist() == [[3, 4, 5], [0, 0, 0], [0, 1, 2]]
    assert stacked["b"].shape == (3, 2, 2)
    assert memory().nbytes == 2 * (3 + 4) * 4


def test_selected_rows_cost_nothing_and_do_not_see_each_other():
    one = memory()
    other = one.select(torch.tensor([0, 0, 1]))
    assert other.nbytes == 7 * 4 and other.facts == one.facts
    other.put([0], {"a": torch.full((1, 3), 9.0), "b": torch.ones(1, 2, 2)})
    assert one.stacked([0], START)["a"].tolist() == [[3, 4, 5]]
    assert other.stacked([0, 1], START)["a"].tolist() == [[9, 9, 9], [3, 4, 5]]


def test_reset_of_one_row_leaves_the_others():
    numbers = memory()
    numbers.reset([0])
    assert numbers.rows[0] is None and numbers.rows[2] is not None and numbers.num_rows == 3
    numbers.reset()
    assert numbers.num_rows == 0 and numbers.is_empty
    numbers.begin(2)
    assert numbers.num_rows == 2


def test_what_fails_is_undone():
    numbers = memory()
    with pytest.raises(KeyError), numbers.undone_on_failure():
        numbers.put([1], {"a": torch.ones(1, 3), "b": torch.ones(1, 2, 2)})
        raise KeyError
    assert numbers.rows[1] is None


def test_a_gradient_flows_through_rows_until_they_are_detached():
    numbers, weight = Numbers(1), torch.ones(3, requires_grad=True)
    numbers.put([0], {"a": weight[None] * 2})
    numbers.stacked([0], {"a": torch.zeros(3)})["a"].sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [2, 2, 2]
    numbers.detach()
    assert not numbers.stacked([0], {"a": torch.zeros(3)})["a"].requires_grad
