"""The loop on the real method and bank: memory that is evicted and reset survives a checkpoint bit by bit."""

from __future__ import annotations

import pytest
import torch
from conftest import Bench, make_documents

from ltm.backbone import load_backbone
from ltm.errors import LtmError
from ltm.methods import create_method
from ltm.training import Corpus, SegmentStream, Trainer, TrainResult, Validation

LENGTHS = [400, 130, 700, 90, 333]


def train(
    bench: Bench, out: str, resume: bool = False, pointer: bool = True, **options
) -> tuple[dict[str, torch.Tensor], TrainResult]:
    """The trained tensors and the result of a run on a new method."""
    torch.manual_seed(0)
    backbone = load_backbone("tiny-llama", dtype="float32")
    sizes = {"segment_size": 32, "memory_size": 100, "retrieved_tokens": 16, "pointer": pointer}
    method = create_method("longmem", backbone, reduction_factor=2, **sizes)
    defaults = {"segment_size": 32, "max_steps": 12, "schedule": "constant", "learning_rate": 2e-3}
    config = bench.config(**{**defaults, **options})
    stream = SegmentStream.from_config(Corpus([make_documents(LENGTHS)]), backbone.tokenizer, config)
    held_out = Corpus([make_documents([200], "held")])
    validation = Validation(held_out, backbone.tokenizer, segment_size=32, segments_per_document=4)
    trainer = Trainer(method, stream, config, bench.folder / out, validation, plot=False, quiet=True)
    result = trainer.train(resume)
    return method.trained_state(), result


SUM_ORDER = 1e-7 if torch.__version__.startswith("2.6.") else 0.0
"""Bit for bit, but in torch 2.6, whose kernels sum in another order where a loaded memory begins at another address."""


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and one
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=SUM_ORDER, rtol=0)


def test_stopped_and_resumed_equals_never_stopped(bench):
    whole, result = train(bench, "whole", eval_every=5)
    start, _ = train(bench, "start", max_steps=1, learning_rate=1e-12)
    train(bench, "parts", max_steps=7)
    resumed, _ = train(bench, "parts", resume=True)
    assert_same(whole, resumed)
    assert any(not torch.equal(whole[name], start[name]) for name in whole)
    assert result.validation["perplexity"] != result.validation["perplexity_memory_off"]


def test_activation_checkpointing_changes_nothing(bench):
    plain, _ = train(bench, "plain", max_steps=4)
    checkpointed, _ = train(bench, "checkpointed", max_steps=4, activation_checkpointing=True)
    assert_same(plain, checkpointed)


def test_identity_start_is_the_same_with_and_without_memory(bench):
    """Of the paper's parts; the pointer copies from the first step on."""
    _, result = train(bench, "out", max_steps=1, learning_rate=1e-12, pointer=False)
    on, off = result.validation["perplexity"], result.validation["perplexity_memory_off"]
    assert on == pytest.approx(off, rel=1e-5)


def test_one_part_alone_learns_and_resumes_exactly(bench):
    """The first segment finds an empty memory, so that nothing of the pointer takes part in its loss."""
    start, _ = train(bench, "start", train_only="pointer", max_steps=1, learning_rate=1e-12)
    whole, _ = train(bench, "whole", train_only="pointer")
    train(bench, "parts", max_steps=7, train_only="pointer")
    resumed, _ = train(bench, "parts", resume=True, train_only="pointer")
    assert_same(whole, resumed)
    changed = {name for name in whole if not torch.equal(whole[name], start[name])}
    assert changed and all("pointer" in name for name in changed)


def test_a_part_that_is_not_there_is_refused(bench):
    with pytest.raises(LtmError, match=r"train_only='gates' is in no name .* sidenet\.memory_gate.*sidenet\.pointer"):
        train(bench, "out", train_only="gates")
