"""Checkpoints: damage and mismatch are refused; an unfinished one is never taken for whole."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from fake_method import FakeMethod
from torch import nn

from ltm.errors import LtmError
from ltm.training.checkpoint import list_checkpoints, random_state, set_random_state


def test_random_states_go_through_json():
    numbers, tensors = random_state()
    numbers = json.loads(json.dumps(numbers))
    first = random.random(), np.random.rand(), torch.rand(3).tolist(), random.gauss(0, 1)
    set_random_state(numbers, tensors)
    assert (random.random(), np.random.rand(), torch.rand(3).tolist(), random.gauss(0, 1)) == first


@pytest.mark.parametrize(
    "file", ["state.json", "weights.safetensors", "optimizer.safetensors", "process-0/stream.json"]
)
@pytest.mark.parametrize("keep", [0, 0.7])
def test_damaged_checkpoint_is_refused(bench, file, keep):
    path = bench.trainer(max_steps=2).train().checkpoint
    data = (path / file).read_bytes()
    (path / file).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(LtmError, match="step-00000002 is damaged"):
        bench.trainer().train(resume=True)


def test_checkpoint_without_its_state_does_not_count(bench):
    bench.trainer(save_every_steps=2).train()
    out = bench.folder / "out"
    assert [path.name for path in list_checkpoints(out)] == ["step-00000004", "step-00000006"]
    (out / "checkpoints" / "step-00000006" / "state.json").unlink()
    (out / "checkpoints" / "step-00000007.partial").mkdir()
    assert [path.name for path in list_checkpoints(out)] == ["step-00000004"]


def test_disk_that_fills_up_leaves_the_checkpoint_before(bench, monkeypatch):
    bench.trainer(max_steps=2).train()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ltm.training.checkpoint._write_tensors", full)
    with pytest.raises(LtmError, match="could not save .*step-00000006.*No space left"):
        bench.trainer().train(resume=True)
    assert [p.name for p in (bench.folder / "out" / "checkpoints").iterdir()] == ["step-00000002"]


def test_other_method_or_data_are_refused(bench):
    bench.trainer(max_steps=2).train()
    wider = FakeMethod()
    wider.extra = nn.Linear(2, 2)
    with pytest.raises(LtmError, match="other weights"):
        bench.trainer(method=wider).train(resume=True)
    with pytest.raises(LtmError, match="segment_size was 8, is 16"):
        bench.trainer(segment_size=16).train(resume=True)
    bench.lengths = [30, 30]
    with pytest.raises(LtmError, match="documents was"):
        bench.trainer().train(resume=True)


def test_other_number_of_processes_is_refused(bench):
    path = bench.trainer(max_steps=2).train().checkpoint
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "processes": 2}))
    with pytest.raises(LtmError, match="saved by 2 processes, this run has 1"):
        bench.trainer().train(resume=True)
