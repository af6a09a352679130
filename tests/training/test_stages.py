"""Stages, one after another, and where the loop calls a learner; strategies of other kinds fit the same hooks."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import contextmanager

import pytest
import torch
from fake_method import FakeMethod
from torch import Tensor
from torch.nn import functional

from ltm.errors import LtmError
from ltm.learning import Learner, create_learner
from ltm.training import read_log
from ltm.training.stream import Batch


def assert_same(one: FakeMethod, other: FakeMethod) -> None:
    assert all(torch.equal(tensor, other.trained()[name]) for name, tensor in one.trained().items())


def differ(one: FakeMethod, other: FakeMethod) -> bool:
    return any(not torch.equal(tensor, other.trained()[name]) for name, tensor in one.trained().items())


class Notes(Learner):
    """What was called, with how many tokens remembered and whether in training mode."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def begin(self, stage, method, parameters):
        self.calls.append(f"begin {stage} {len(parameters)}")

    def batch(self, batch):
        self.calls.append("batch")
        return batch

    def before(self, method, inputs):
        self.remembered = dict(inputs["memory"].counts)
        self.calls.append("before")

    def loss(self, method, inputs, output):
        assert self.remembered != inputs["memory"].counts  # scoring has taken the segment in
        self.calls.append("loss")
        return output.loss

    def gradients(self, parameters):
        assert all(parameter.grad is not None for parameter in parameters.values())
        self.calls.append("gradients")

    def end(self, stage, method, batches):
        first = next(batches)
        assert not method.training and not first["memory"].counts and torch.is_grad_enabled()
        method(**first)
        second = next(batches)
        assert first["memory"] is second["memory"] and second["memory"].counts
        self.calls.append(f"end {stage}")


def test_hooks_are_called_in_order_and_the_end_leaves_no_trace(bench):
    plain, watched, notes = FakeMethod(), FakeMethod(), Notes()
    options = {"stages": 2, "max_steps": 2, "gradient_accumulation": 2}
    bench.trainer("plain", plain, **options).train()
    result = bench.trainer("watched", watched, learner=notes, **options).train()
    step = ["batch", "batch", "before", "loss", "before", "loss", "gradients"]
    stages = [[f"begin {stage} 7", *step, *step, f"end {stage}"] for stage in (0, 1)]
    assert notes.calls == stages[0] + stages[1]
    assert result.step == 4
    assert_same(plain, watched)
    log = read_log(bench.folder / "watched" / "log.jsonl")
    assert [record["event"] for record in log] == ["train", "train", "stage", "train", "train", "stop"]
    assert log[2]["stage"] == 1 and not any("penalty" in record for record in log)


def test_two_stages_are_two_runs_one_after_the_other(bench):
    """The second from the weights of the first: schedule, optimizer, memory and seed begin anew."""
    staged, apart = FakeMethod(), FakeMethod()
    options = {"schedule": "cosine", "warmup_steps": 2}
    bench.trainer("staged", staged, stages=2, **options).train()
    bench.trainer("first", apart, **options).train()
    bench.corpus = bench.other_corpus
    bench.trainer("second", apart, **options).train()
    assert_same(staged, apart)


class StopsAt(FakeMethod):
    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def forward(self, *args, **kwargs):
        if self.training and sum(call["training"] for call in self.calls) + 1 == self.step:
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("step", [2, 6, 9, 12])
@pytest.mark.parametrize("name", ["plain", "ewc", "replay"])
def test_stopped_and_resumed_equals_never_stopped(bench, name, step):
    """In the first stage, at its end, in the second and at its end."""
    learners = {
        "plain": Learner,
        "ewc": lambda: create_learner("ewc", strength=5.0, fisher_batches=3),
        "replay": Replay,
    }
    whole, resumed = FakeMethod(), FakeMethod(seed=99)
    bench.trainer("whole", whole, learner=learners[name](), stages=2).train()
    stopped = bench.trainer("parts", StopsAt(step), learner=learners[name](), stages=2).train()
    assert (stopped.step, stopped.stopped) == (step, "SIGINT")
    learner = learners[name]()
    bench.trainer("parts", resumed, learner=learner, stages=2).train(resume=True)
    assert_same(whole, resumed)
    assert name == "plain" or learner.state_dict()


def test_another_learner_and_missing_stages_are_refused(bench):
    bench.trainer(max_steps=1, stages=2, learner=create_learner("ewc")).train()
    with pytest.raises(LtmError, match="saved with learner ewc, this run has plain; resume with the learner it had"):
        bench.trainer(stages=2).train(resume=True)
    with pytest.raises(LtmError, match="is in stage 2, but there are 1; give the data of all"):
        bench.trainer(learner=create_learner("ewc")).train(resume=True)


def test_another_backbone_is_refused(bench):
    bench.trainer(max_steps=1).train()
    method = FakeMethod()
    with torch.no_grad():
        method.model.lm_head.weight[3, 5] += 1e-4
    with pytest.raises(LtmError, match="saved beside another backbone: weights: .*; resume with the one it had"):
        bench.trainer(method=method).train(resume=True)


def test_a_penalty_is_logged_apart_from_the_loss(bench):
    bench.trainer("out", stages=2, max_steps=3, learner=create_learner("ewc", strength=1e4, fisher_batches=2)).train()
    records = [record for record in read_log(bench.folder / "out" / "log.jsonl") if record["event"] == "train"]
    assert [record.get("penalty", 0.0) > 0 for record in records] == [False] * 3 + [
        False,
        True,
        True,
    ]  # at its center: 0
    assert all(record["loss"] < 6 for record in records)


# strategies of other kinds, as small as they can be


class Replay(Learner):
    """Rows of earlier stages below those of the present one."""

    added_rows = 1

    def __init__(self):
        super().__init__()
        self.kept: list[Tensor] = []

    def batch(self, batch: Batch) -> Batch:
        if not self.kept:
            return batch
        ids = torch.cat((batch.input_ids, functional.pad(self.kept[0], (0, 8))[None, : batch.input_ids.shape[1]]))
        mask = torch.cat((batch.attention_mask, (ids[-1:] > 0).long()))
        starts = torch.cat((batch.starts, torch.ones(1, dtype=torch.bool)))
        return Batch(ids, mask, ids.masked_fill(mask == 0, -100), starts, (*batch.documents, -1))

    def end(self, stage, method, batches):
        self.kept = [next(batches)["input_ids"][0].clone() + 1]

    def state_dict(self):
        return {str(number): ids for number, ids in enumerate(self.kept)}

    def load_state_dict(self, state: Mapping[str, Tensor]):
        self.kept = list(state.values())


def test_replay_adds_rows_with_memories_of_their_own(bench):
    method, plain = FakeMethod(dropout=0.0), FakeMethod(dropout=0.0)
    trainer = bench.trainer("out", method, learner=Replay(), stages=2)
    trainer.train()
    bench.trainer("plain", plain, stages=2).train()
    assert [call["rows"] for call in method.calls if call["training"]] == [2] * 6 + [3] * 6
    assert trainer.run.memory.num_rows == 3 and set(trainer.run.memory.counts) == {0, 1, 2}
    assert differ(method, plain)


@contextmanager
def weights_of(parameters, tensors):
    now = {name: parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.data = tensors.get(name, parameter.data)
    yield
    for name, parameter in parameters.items():
        parameter.data = now[name]


class Teacher(Learner):
    """Learning without forgetting: what the weights of before say of the new text is kept, too."""

    before_weights: dict[str, Tensor] = {}

    def begin(self, stage, method, parameters):
        self.parameters = parameters

    def before(self, method, inputs):
        with weights_of(self.parameters, self.before_weights), torch.no_grad():
            self.said = method(**{**inputs, "remember": False}).logits.softmax(dim=-1)

    def loss(self, method, inputs, output):
        if not self.before_weights:
            return output.loss
        return output.loss - 5 * (self.said * output.logits.log_softmax(dim=-1)).sum(dim=-1).mean()

    def end(self, stage, method, batches):
        self.before_weights = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}


def test_a_teacher_is_asked_with_the_memory_that_scoring_finds(bench):
    taught, plain, start = (FakeMethod(dropout=0.0) for _ in range(3))
    teacher, rate = Teacher(), {"learning_rate": 3e-2}
    bench.trainer("first", start, **rate).train()
    bench.trainer("taught", taught, learner=teacher, stages=2, **rate).train()
    bench.trainer("plain", plain, stages=2, **rate).train()
    moved = [
        sum(float((tensor - start.trained()[name]).square().sum()) for name, tensor in method.trained().items())
        for method in (taught, plain)
    ]
    assert 0 < moved[0] < 0.8 * moved[1]


class Gem(Learner):
    """A-GEM (Chaudhry et al., 2019): a step never goes against the gradient of what is kept of earlier stages."""

    kept = None

    def begin(self, stage, method, parameters):
        self.method = method

    def end(self, stage, method, batches):
        self.kept = next(batches)

    def gradients(self, parameters):
        if self.kept is None:
            return
        with torch.enable_grad():
            output = self.method(**{**self.kept, "memory": self.method.new_memory(2)})
            old = torch.autograd.grad(output.loss, list(parameters.values()), allow_unused=True)
        old = [torch.zeros_like(p) if g is None else g for g, p in zip(old, parameters.values(), strict=True)]
        along = sum((g * p.grad).sum() for g, p in zip(old, parameters.values(), strict=True))
        if along < 0:
            length = sum(g.square().sum() for g in old)
            for g, p in zip(old, parameters.values(), strict=True):
                p.grad -= along / length * g
        self.after = sum((g * p.grad).sum() for g, p in zip(old, parameters.values(), strict=True))
        assert self.after > -1e-5


class Freeze(Learner):
    """From the second stage on some weights stay."""

    def begin(self, stage, method, parameters):
        self.stage = stage

    def gradients(self, parameters):
        if self.stage:
            parameters["local.weight"].grad = None


def test_gradients_can_be_projected_and_left_out(bench):
    projected, frozen, first = (FakeMethod(dropout=0.0) for _ in range(3))
    gem = Gem()
    bench.trainer("gem", projected, learner=gem, stages=2, gradient_accumulation=2).train()
    assert gem.kept is not None and hasattr(gem, "after")
    bench.trainer("frozen", frozen, learner=Freeze(), stages=2, weight_decay=0.5).train()
    bench.trainer("first", first, weight_decay=0.5).train()
    assert torch.equal(frozen.local.weight, first.local.weight)
    assert not torch.equal(frozen.remembered.weight, first.remembered.weight)
