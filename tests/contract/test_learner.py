"""What every learner must do, with what the methods train, on two toy texts one after the other."""

from __future__ import annotations

import math
import os
import random
import signal
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ltm.backbone import load_backbone
from ltm.data.documents import Document
from ltm.learning import LEARNERS, Learner
from ltm.methods import create_method, method_class
from ltm.training import Corpus, SegmentStream, TrainConfig, Trainer, Validation, read_log

TEXTS = ("aaaabbcd", "cdddeeef")
"""Letters that are drawn at random: what is certain has no importance, and nothing to forget it by."""
STEPS = 14
TRAINED = {  # what is trained, and how fast: a SideNet; a gate of four numbers; a gate and a part of the backbone
    "longmem": ("longmem", None, 3e-3),
    "memorizing": ("memorizing", None, 1e-1),
    "memorizing+backbone": ("memorizing", "layers.5.mlp", 3e-3),
}
SLOW_TO_FORGET = ("memorizing",)
"""What has too few weights to learn one text at the other's cost."""


class Run(NamedTuple):
    """Two stages: trained weights, the log of steps, and of both texts the loss after each stage, nats per token."""

    weights: dict[str, Tensor]
    log: list[dict[str, Any]]
    losses: list[list[float]]
    learner: Learner


_RUNS: dict[tuple[str, ...], Run] = {}


@pytest.fixture(params=sorted(TRAINED))
def trained(request):
    return request.param


@pytest.fixture(params=sorted(LEARNERS))
def learner(request):
    return LEARNERS[request.param]


def documents(letters: str) -> list[Document]:
    draw = random.Random(letters)
    return [Document(str(n), "".join(draw.choices(letters, k=200)), "") for n in range(3)]


def train(trained: str, learner: Learner, out, resume: bool = False, stop_at: int | None = None) -> Run:
    name, backbone, rate = TRAINED[trained]
    torch.manual_seed(0)
    method = create_method(name, load_backbone("tiny-llama"), **vars(method_class(name).config_class.tiny()))
    options = {"batch_rows": 2, "segment_size": 16, "max_document_tokens": 64, "schedule": "constant"}
    options |= {"max_steps": STEPS, "learning_rate": rate, "train_backbone": backbone, "eval_every": STEPS}
    config, tokenizer = TrainConfig(**options), method.backbone.tokenizer
    streams = [SegmentStream.from_config(Corpus([documents(text)]), tokenizer, config) for text in TEXTS]
    sizes = {"segment_size": 16, "documents_per_kind": 1, "segments_per_document": 2}
    check = Validation(Corpus([documents(text) for text in TEXTS], TEXTS), tokenizer, **sizes)
    trainer = Trainer(method, streams, config, out, check, learner=learner, plot=False, quiet=True)
    if stop_at is not None:
        stop_in_step(trainer, stop_at)
    trainer.train(resume)
    log = read_log(out / "log.jsonl")
    found = [[math.log(record[f"perplexity/{text}"]) for text in TEXTS] for record in log if record["event"] == "eval"]
    weights = {key: parameter.detach().clone() for key, parameter in trainer.parameters.items()}
    return Run(weights, [record for record in log if record["event"] == "train"], found[1:], learner)


def stop_in_step(trainer: Trainer, step: int) -> None:
    """Ctrl-C, in the middle of a step."""
    own = trainer.stepper.step

    def stopping(*args, **kwargs):
        if trainer.state.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return own(*args, **kwargs)

    trainer.stepper.step = stopping


def shared(trained: str, learner: type[Learner], config: str, tmp_path_factory) -> Run:
    """Runs that several tests look at."""
    key = (trained, learner.name, config)
    if key not in _RUNS:
        made = Learner() if config == "plain" else learner(getattr(learner.config_class, config)())
        _RUNS[key] = train(trained, made, tmp_path_factory.mktemp("run"))
    return _RUNS[key]


@pytest.fixture
def plain(trained, tmp_path_factory):
    return shared(trained, Learner, "plain", tmp_path_factory)


@pytest.fixture
def on(trained, learner, tmp_path_factory):
    return shared(trained, learner, "tiny", tmp_path_factory)


def same(one: Run, other: Run) -> bool:
    assert one.weights.keys() == other.weights.keys() and one.weights
    return all(torch.equal(weight, other.weights[name]) for name, weight in one.weights.items())


def test_off_is_plain_training_bit_for_bit(trained, learner, plain, on, tmp_path_factory):
    off = shared(trained, learner, "off", tmp_path_factory)
    assert same(plain, off) and plain.losses == off.losses
    assert not same(plain, on)


def test_the_first_stage_is_plain_training_without_a_penalty(plain, on):
    for one, other in zip(plain.log[:STEPS], on.log[:STEPS], strict=True):
        assert [one[name] for name in ("loss", "grad_norm")] == [other[name] for name in ("loss", "grad_norm")]
        assert "penalty" not in other
    assert plain.losses[0] == on.losses[0] and plain.losses[1] != on.losses[1]


def test_resumed_equals_never_stopped(trained, learner, on, tmp_path_factory):
    """Stopped after the last step of the first stage, before the learner heard of its end."""
    out = tmp_path_factory.mktemp("parts")
    stopped = train(trained, learner(learner.config_class.tiny()), out, stop_at=STEPS)
    resumed = train(trained, learner(learner.config_class.tiny()), out, resume=True)
    assert len(stopped.log) == STEPS and not same(stopped, on) and same(resumed, on)
    assert all(torch.equal(t, resumed.learner.state_dict()[name]) for name, t in on.learner.state_dict().items())


def test_the_first_text_is_forgotten_less_than_by_plain_training(trained, plain, on):
    if trained in SLOW_TO_FORGET:
        pytest.skip("has too few weights to forget anything by")
    first, told = plain.losses[0], f"{on.learner.name} {on.losses}, plain {plain.losses}"
    forgotten, kept = plain.losses[1][0] - first[0], on.losses[1][0] - first[0]
    assert forgotten > 0.3, told
    assert kept < 0.75 * forgotten, told
    assert on.losses[1][1] < first[1] - 0.3, told  # and the second is learned


def test_state_goes_through_tensors(learner, on):
    state, other = on.learner.state_dict(), learner(learner.config_class.tiny())
    other.begin(1, None, {name: torch.nn.Parameter(weight.clone()) for name, weight in on.weights.items()})
    other.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    assert state and other.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in state.items())
    assert all(isinstance(tensor, Tensor) and tensor.isfinite().all() for tensor in state.values())
