"""Gradients through memory: the loss of the last segment of a group reaches what the first one wrote."""

from __future__ import annotations

import pytest
import torch
from toy_recurrent import Recurrent, RowStates

from ltm.errors import ConfigError
from ltm.training import TrainConfig

WRITING = ("keep.weight", "write.weight")


def gradients_of(bench, groups: int, size: int) -> tuple[RowStates, dict[str, torch.Tensor], list]:
    """One step's gradients over groups x size segments."""
    options = {"gradient_accumulation": groups, "backprop_segments": size, "max_grad_norm": None, "max_steps": 1}
    trainer = bench.trainer(f"{groups}x{size}", Recurrent(), **options)
    batches = [next(trainer.stream) for _ in range(groups * size)]
    trainer.optimizer.zero_grad = lambda set_to_none: None  # keep the gradients to look at them
    trainer.stepper.step(batches, rate=0.0)
    return trainer.run.memory, {name: p.grad.clone() for name, p in trainer.parameters.items()}, batches


def naive_gradients(batches: list, size: int) -> dict[str, torch.Tensor]:
    """The same written out: the sum of all losses, the state cut off after each group."""
    method, memory, scored = Recurrent(), RowStates(2), sum(batch.num_scored for batch in batches)
    total = torch.zeros(())
    for number, batch in enumerate(batches):
        if number % size == 0:
            memory.detach()
        memory.reset(batch.starts.nonzero().flatten())
        loss = method(batch.input_ids, batch.attention_mask, batch.labels, memory, remember=True).loss
        total = total + loss * batch.num_scored / scored
    total.backward()
    return {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in method.named_parameters()}


@pytest.mark.parametrize(("groups", "size"), [(4, 1), (2, 2), (1, 4), (2, 3)])
def test_gradients_are_those_of_the_losses_of_a_group_together(bench, groups, size):
    memory, gradients, batches = gradients_of(bench, groups, size)
    assert sum(bool(batch.starts.any()) for batch in batches) > 1  # documents begin inside a group
    for name, expected in naive_gradients(batches, size).items():
        torch.testing.assert_close(gradients[name], expected, rtol=1e-5, atol=1e-8)
    assert not any(state.requires_grad for state in memory.states)


def test_writing_is_taught_by_later_segments_alone(bench):
    alone, together = gradients_of(bench, 4, 1)[1], gradients_of(bench, 1, 4)[1]
    assert not any(alone[name].any() for name in WRITING)
    assert all(together[name].any() for name in WRITING)
    assert alone["read.weight"].any()


def test_stopped_between_groups_and_resumed_equals_never_stopped(bench):
    options = {"backprop_segments": 3, "schedule": "constant"}
    whole, resumed = Recurrent(), Recurrent(seed=99)
    bench.trainer("whole", whole, **options).train()
    bench.trainer("parts", Recurrent(), max_steps=3, **options).train()
    bench.trainer("parts", resumed, **options).train(resume=True)
    assert all(torch.equal(tensor, resumed.trained()[name]) for name, tensor in whole.trained().items())
    other = Recurrent()
    bench.trainer("other", other, schedule="constant", gradient_accumulation=3).train()
    assert not torch.equal(other.keep.weight, whole.keep.weight)


def test_no_segments_are_refused():
    with pytest.raises(ConfigError, match="backprop_segments=0; use a whole number of 1 or more"):
        TrainConfig(max_steps=1, backprop_segments=0)
