"""A backbone that is trained is another one: older memories are refused, what was trained beside it goes with it."""

from __future__ import annotations

import pytest
import torch
from conftest import make_documents

from ltm.backbone import load_backbone
from ltm.errors import BankMismatchError, LtmError
from ltm.methods import create_method, load_method, method_class
from ltm.training import Corpus, SegmentStream, Trainer

IDS = torch.randint(3, 250, (1, 40), generator=torch.Generator().manual_seed(0))
PART = "layers.4.mlp"


def make(name: str):
    torch.manual_seed(0)
    return create_method(name, load_backbone("tiny-llama"), **vars(method_class(name).config_class.tiny()))


def train(bench, method, out: str, resume: bool = False, **options) -> Trainer:
    config = bench.config(
        **{"segment_size": 16, "max_steps": 6, "schedule": "constant", "train_backbone": PART, **options}
    )
    stream = SegmentStream.from_config(Corpus([make_documents([90, 130, 40])]), method.backbone.tokenizer, config)
    trainer = Trainer(method, stream, config, bench.folder / out, plot=False, quiet=True)
    trainer.train(resume)
    return trainer


def backbone_weights(method) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in method.model.state_dict().items()}


@pytest.mark.parametrize("name", ["longmem", "memorizing", "window"])
def test_only_what_is_named_is_trained_and_it_is_resumed_exactly(bench, name):
    whole, resumed = make(name), make(name)
    before = backbone_weights(whole)
    train(bench, whole, "whole")
    train(bench, make(name), "parts", max_steps=4)
    train(bench, resumed, "parts", resume=True)
    after, other = backbone_weights(whole), backbone_weights(resumed)
    assert {key for key in after if not torch.equal(after[key], before[key])} == {key for key in after if PART in key}
    assert all(torch.equal(tensor, other[key]) for key, tensor in after.items())
    assert not any(parameter.requires_grad for parameter in whole.model.parameters())
    assert whole.backbone.fingerprint == resumed.backbone.fingerprint


@pytest.mark.parametrize("name", ["longmem", "memorizing", "em_llm"])
def test_memories_of_before_and_of_training_are_refused(bench, name):
    method = make(name).eval()
    method.read(IDS, memory=(before := method.new_memory()))
    before.save(bench.folder / "before")
    trainer = train(bench, method, "out")
    method.eval()
    for memory in (before, trainer.run.memory):
        with pytest.raises(BankMismatchError, match="weights: bank .*(read the texts? again|rebuild)"):
            method(IDS[:, :5], memory=memory, memory_rows=[0])
    with pytest.raises(BankMismatchError, match="weights: bank"):
        method.load_memory(bench.folder / "before")
    with torch.no_grad():
        method.read(IDS, memory=(new := method.new_memory()))
        method(IDS[:, :5], memory=new)


def test_what_was_trained_is_opened_on_the_backbone_that_was_saved_with_it(bench):
    method = make("longmem")
    train(bench, method, "out")
    out = bench.folder / "out"
    loaded = load_method(load_backbone(out / "backbone", dtype="float32"), out)
    assert loaded.backbone.fingerprint.differences(method.backbone.fingerprint) == []
    with torch.no_grad():
        assert torch.equal(loaded(IDS, memory=None).logits, method.eval()(IDS, memory=None).logits)
    with pytest.raises(LtmError, match="was trained for tiny-llama: weights: .*load that backbone"):
        load_method(load_backbone("tiny-llama"), out)


def test_what_cannot_be_trained_is_told(bench):
    with pytest.raises(LtmError, match="train_backbone='zork' is in no name"):
        train(bench, make("window"), "out", train_backbone="zork")
    method = create_method("window", load_backbone("tiny-llama", dtype="bfloat16"))
    with pytest.raises(LtmError, match="the backbone is in bfloat16.*load it with dtype float32"):
        train(bench, method, "out")
    with pytest.raises(LtmError, match="has nothing to train"):
        train(bench, make("window"), "out", train_backbone=None)
