"""A look at tensors: which changes it tells, at once or in time, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ltm.backbone.fingerprint import SAMPLES_PER_TENSOR
from ltm.backbone.watched import TURNS, Watched, bit_sums, digest_of, sample_of


def named(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        (str(n), torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype), requires_grad=False))
        for n, shape in enumerate(shapes)
    ]


class Counted:
    """How often the value was worked out."""

    def __init__(self, tensors):
        self.watched, self.tensors, self.times = Watched(), tensors, 0
        self.look()

    def look(self, others=None):
        self.watched.of(self.tensors, self.take, others)
        return self.times

    def take(self):
        self.times += 1


@torch.no_grad()
def test_what_pytorch_counts_is_seen_at_the_next_look():
    tensors = named((7,), (300, 400), (1,))
    counted, big = Counted(tensors), tensors[1][1]
    optimizer = torch.optim.AdamW([big], lr=1e-7)

    def step():
        big.grad = torch.zeros_like(big)
        big.grad[151, 203] = 1e-9
        optimizer.step()

    changes = (
        lambda: big.view(-1)[60_001].add_(1),
        lambda: big[151, 203].mul_(1.5),
        lambda: big.copy_(big.clone()),
        step,
        lambda: torch._foreach_add_([big], 0.0),
        lambda: tensors.__setitem__(2, ("2", torch.nn.Parameter(tensors[2][1].clone(), requires_grad=False))),
    )
    for number, change in enumerate(changes, start=2):
        change()
        assert counted.look() == number == counted.look()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
@torch.no_grad()
def test_what_it_does_not_count_is_seen_within_its_turns(dtype):
    tensors = named((7,), (3, 5), (300, 401), (9,), dtype=dtype)
    for index in (0, 1, 2, 3):
        for place in (0, 1, tensors[index][1].numel() // 2 + 1, -1):
            counted = Counted(tensors)
            tensors[index][1].data.view(-1)[place] += 1
            assert [counted.look() for _ in range(TURNS)][-1] == 2
    counted = Counted(tensors)
    if dtype == torch.float32:
        np.asarray(tensors[2][1].numpy())[77, 78] = 5
        assert [counted.look() for _ in range(TURNS)][-1] == 2
    counted = Counted(tensors)
    tensors[2][1].data += 1  # a whole tensor: at once
    assert counted.look() == 2


def test_nothing_changed_is_never_worked_out_again():
    counted = Counted(named((50, 60), (7,)))
    assert {counted.look() for _ in range(3 * TURNS)} == {1}
    assert counted.look(others="another setting") == 2


def test_every_element_has_its_turn_and_only_one():
    tensors = named((1000,), (3, 7), (2,), (64, 64), dtype=torch.int8)
    ones = [(name, torch.ones_like(tensor)) for name, tensor in tensors]
    words = [(name, torch.ones(tensor.shape, dtype=torch.int64)) for name, tensor in tensors]
    total = sum(tensor.numel() for _, tensor in tensors)
    assert sum(sum(bit_sums(words, turn)) for turn in range(TURNS)) == total
    assert all(any(bit_sums(ones, turn)) for turn in range(TURNS))


def test_a_digest_is_of_every_bit_in_order():
    one, two = (tensor for _, tensor in named((4,), (4,)))
    assert digest_of([one, two]) == digest_of([one.clone(), two]) != digest_of([two, one])
    changed = one.clone()
    changed[2] = torch.nextafter(changed[2], torch.tensor(9.0))
    assert digest_of([changed, two]) != digest_of([one, two]) and len(digest_of([one])) == 16


@pytest.mark.parametrize("shape", [(1,), (63,), (4096,), (4097,), (4096, 4096), (1536, 576), (49152, 576)])
def test_the_sample_is_small_and_covers_rows_and_columns(shape):
    tensor = torch.arange(torch.Size(shape).numel()).view(shape)
    sample = sample_of(tensor, SAMPLES_PER_TENSOR)
    assert min(tensor.numel(), SAMPLES_PER_TENSOR // 3) <= len(sample) <= SAMPLES_PER_TENSOR
    if len(shape) == 2:
        assert len((sample // shape[1]).unique()) > min(shape) // 2  # rows
        assert len((sample % shape[1]).unique()) > min(shape) // 2  # columns
