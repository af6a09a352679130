"""Two CPU processes under torchrun train as one does, and resume."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_method import FakeMethod
from safetensors.torch import load_file

from ltm.errors import LtmError
from ltm.training import read_log
from ltm.training.setup import make_accelerator


def test_two_processes_with_one_row_equal_one_process_with_two(bench):
    script = Path(__file__).parent / "train_in_processes.py"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(script),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run([*command, str(bench.folder)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]

    method = FakeMethod(dropout=0.0)
    start = method.trained()
    alone = bench.trainer("alone", method, bench.validation(), eval_every=3, schedule="constant").train()
    first, second = (load_file(bench.folder / f"process-{rank}.safetensors") for rank in (0, 1))
    for name, tensor in method.trained().items():
        assert torch.equal(first[f"whole.{name}"], second[f"whole.{name}"]), name
        assert torch.equal(first[f"whole.{name}"], first[f"resumed.{name}"]), name
        assert torch.equal(first[f"whole.{name}"], second[f"resumed.{name}"]), name
        assert not torch.equal(tensor, start[name]), name
        # sums over rows in one process and over processes round differently
        torch.testing.assert_close(first[f"whole.{name}"], tensor, rtol=1e-4, atol=1e-6)

    records = [r for r in read_log(bench.folder / "whole" / "log.jsonl") if r["event"] == "train"]
    own = [r for r in read_log(bench.folder / "alone" / "log.jsonl") if r["event"] == "train"]
    assert [r["tokens"] for r in records] == [r["tokens"] for r in own]
    assert [r["loss"] for r in records] == pytest.approx([r["loss"] for r in own], rel=1e-4)
    assert alone.step == len(records) == 6
    memories = sorted(p.parent.name for p in (bench.folder / "parts").rglob("memory"))
    assert memories == ["process-0", "process-0", "process-1", "process-1"]


def test_processes_that_do_not_find_each_other_are_refused(monkeypatch):
    make_accelerator(FakeMethod())  # this process is alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LtmError, match="2 processes were started but 1 found each other"):
        make_accelerator(FakeMethod())
