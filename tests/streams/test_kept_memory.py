"""KeptMemory: what a rule kept, on its own and in another process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ltm.errors import LtmError
from ltm.methods import create_method
from ltm.streams.kept_memory import KeptMemory, KeptStream

OPTIONS = "budget=10, block=4"
IN_ANOTHER_PROCESS = f"""
import sys, torch
from ltm.backbone import load_backbone
from ltm.methods import create_method
method = create_method("tova", load_backbone("tiny-llama", dtype=torch.float64), {OPTIONS})
memory = method.load_memory(sys.argv[1])
with torch.no_grad():
    torch.save(method(torch.arange(40, 49)[None].expand(2, -1), memory=memory).logits, sys.argv[2])
"""


@pytest.fixture
def method(tiny_backbone):
    return create_method("tova", tiny_backbone("tiny-llama", "float64"), budget=10, block=4)


def test_another_process_answers_the_same(method, tmp_path):
    """To the bit: what is loaded is what was kept, and not what would be kept of the text read again."""
    ids = torch.randint(5, 90, (2, 43), generator=torch.Generator().manual_seed(0))
    method.read(ids[:, :20])
    method.read(ids[:, 20:])
    method.memory.save(tmp_path / "kept")
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path / "kept"), str(tmp_path / "logits")]
    subprocess.run(command, check=True, timeout=120)
    with torch.no_grad():
        expected = method(torch.arange(40, 49)[None].expand(2, -1)).logits
    assert torch.equal(torch.load(tmp_path / "logits"), expected)


def test_an_empty_memory_is_saved_and_loaded(method, tmp_path):
    method.new_memory(3).save(tmp_path)
    loaded = method.load_memory(tmp_path)
    assert (loaded.num_rows, loaded.nbytes, loaded.is_empty) == (3, 0, True)
    method.read(torch.full((3, 12), 7), memory=loaded)
    assert loaded.nbytes > 0 and loaded.num_tokens(2) == 12


def test_what_was_read_under_other_options_or_by_another_kind_is_refused(method, tmp_path):
    method.read(torch.full((1, 12), 7))
    method.memory.save(tmp_path)
    other = create_method("tova", method.backbone, budget=10, block=4, positions="cache")
    with pytest.raises(LtmError, match=r"kept by tova\(budget=10.*would have kept others"):
        other.load_memory(tmp_path)
    with pytest.raises(LtmError, match="a memory of kind 'kept', not stream"):
        create_method("full", method.backbone).load_memory(tmp_path)


def test_bytes_are_those_of_what_is_kept():
    memory = KeptMemory(KeptStream("rule()"))
    assert memory.nbytes == 0 and memory.past.shape[-1] == "rule()"
