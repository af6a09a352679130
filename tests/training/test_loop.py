"""The training loop: exact resuming, polite stopping, accumulation, skipped steps, what it writes."""

from __future__ import annotations

import json
import math
import os
import signal
from importlib.metadata import version

import pytest
import torch
from fake_method import FakeMethod, Means
from safetensors.torch import load_file

from ltm.errors import LtmError
from ltm.training import read_log
from ltm.training.checkpoint import list_checkpoints
from ltm.training.optimizer import build_optimizer, named_trainables
from ltm.training.setup import choose_precision
from ltm.training.signals import StopRequest


def assert_same_weights(one: FakeMethod, other: FakeMethod) -> None:
    assert one.trained().keys() == other.trained().keys()
    for name, tensor in one.trained().items():
        assert torch.equal(tensor, other.trained()[name]), name


def train_events(out) -> list[dict]:
    return [record for record in read_log(out / "log.jsonl") if record["event"] == "train"]


class StopAtStep(FakeMethod):
    """Sends a signal to its own process while a step runs."""

    def __init__(self, step: int, number: signal.Signals):
        super().__init__()
        self.step, self.number = step, number

    def forward(self, *args, **kwargs):
        if len(self.calls) + 1 == self.step:
            os.kill(os.getpid(), self.number)
        return super().forward(*args, **kwargs)


def test_training_lowers_the_loss_and_leaves_the_backbone_alone(bench):
    method = FakeMethod(dropout=0.0)
    frozen = {n: p.clone() for n, p in method.named_parameters() if not p.requires_grad}
    start = method.trained()
    result = bench.trainer(method=method, max_steps=60, learning_rate=3e-2, save_every_minutes=None).train()
    losses = [record["loss"] for record in train_events(bench.folder / "out")]
    assert sum(losses[-5:]) / 5 < 0.9 * sum(losses[:5]) / 5
    assert (result.step, result.skipped_steps, result.stopped) == (60, 0, None)
    assert result.loss == pytest.approx(losses[-1], rel=1e-5)
    assert all(torch.equal(p, frozen[n]) for n, p in method.named_parameters() if n in frozen)
    assert all(not torch.equal(tensor, start[name]) for name, tensor in method.trained().items())


def test_calls_follow_the_interface(bench):
    method = FakeMethod()
    bench.trainer(method=method, max_steps=12).train()
    assert method.calls == [{"rows": 2, "training": True, "remember": True}] * 12
    assert method.resets[0] == [0, 1]
    assert all(rows in ([0], [1], [0, 1]) for rows in method.resets)
    assert 2 < len(method.resets) < 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_equals_never_stopped(bench, capsys, number):
    whole = FakeMethod()
    bench.trainer("whole", whole, schedule="cosine", gradient_accumulation=1).train()

    former = signal.getsignal(number)
    trainer = bench.trainer("parts", StopAtStep(3, number), schedule="cosine")
    trainer.quiet = False
    result = trainer.train()
    assert (result.step, result.stopped) == (3, number.name)
    assert signal.getsignal(number) is former
    message = capsys.readouterr().err
    assert f"stopped by {number.name} after step 3" in message and "--resume" in message
    assert not (bench.folder / "parts" / "fake.safetensors").exists()

    resumed = FakeMethod(seed=99)  # everything must come from the checkpoint
    result = bench.trainer("parts", resumed, schedule="cosine").train(resume=True)
    assert result.step == 6
    assert_same_weights(whole, resumed)
    pairs = zip(train_events(bench.folder / "whole"), train_events(bench.folder / "parts"), strict=True)
    for one, other in pairs:
        assert [one[k] for k in ("step", "tokens", "loss", "lr")] == [
            other[k] for k in ("step", "tokens", "loss", "lr")
        ]


def test_killed_run_resumes_from_its_last_checkpoint(bench):
    whole = FakeMethod()
    bench.trainer("whole", whole).train()

    class Dies(FakeMethod):
        def forward(self, *args, **kwargs):
            if len(self.calls) == 5:
                raise KeyboardInterrupt
            return super().forward(*args, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        bench.trainer("parts", Dies(), save_every_steps=2).train()
    assert [path.name for path in list_checkpoints(bench.folder / "parts")] == [
        "step-00000002",
        "step-00000004",
    ]
    resumed = FakeMethod(seed=99)
    bench.trainer("parts", resumed, save_every_steps=2).train(resume=True)
    assert_same_weights(whole, resumed)
    assert [record["step"] for record in train_events(bench.folder / "parts")] == [1, 2, 3, 4, 5, 6]


def test_memory_is_part_of_a_checkpoint(bench):
    whole = FakeMethod()
    bench.trainer("whole", whole).train()

    class Forgetful(FakeMethod):
        """Loses its memory on the way to the checkpoint."""

        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            if len(self.calls) == 3:
                kwargs["memory"].reset([0, 1])
            return output

    bench.trainer("parts", Forgetful(), max_steps=3, schedule="constant").train()
    resumed = FakeMethod()
    bench.trainer("parts", resumed).train(resume=True)
    assert any(not torch.equal(t, resumed.trained()[n]) for n, t in whole.trained().items())


def test_longer_horizon_continues_a_finished_run(bench):
    whole, first, second = FakeMethod(), FakeMethod(), FakeMethod(seed=5)
    bench.trainer("whole", whole, schedule="constant").train()
    bench.trainer("parts", first, schedule="constant", max_steps=4).train()
    bench.trainer("parts", second, schedule="constant").train(resume=True)
    assert_same_weights(whole, second)
    again = bench.trainer("parts", FakeMethod(seed=7), schedule="constant").train(resume=True)
    assert again.step == 6


def test_accumulated_segments_weigh_by_their_scored_tokens(bench):
    """Two accumulated segments of 8 and 3 tokens give the gradient of the mean over all 9 scored tokens."""
    bench.lengths = [11]
    method = FakeMethod(dropout=0.0)
    trainer = bench.trainer(method=method, batch_rows=1, gradient_accumulation=2, max_grad_norm=None, max_steps=1)
    batches = [next(trainer.stream), next(trainer.stream)]
    assert [batch.num_scored for batch in batches] == [7, 2]
    reference, memory = FakeMethod(dropout=0.0), Means(1)
    losses = []
    for batch in batches:
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": batch.labels,
        }
        losses.append(reference(**inputs, memory=memory, remember=True).loss * batch.num_scored)
    (sum(losses) / 9).backward()
    trainer.optimizer.zero_grad = lambda set_to_none: None  # keep the gradients to look at them
    figures = trainer.stepper.step(batches, rate=0.0)
    assert figures.loss == pytest.approx(float(sum(losses).detach()) / 9, rel=1e-5)
    assert (figures.scored, figures.tokens) == (9, 11)
    for name, parameter in reference.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(trainer.parameters[name].grad, parameter.grad, rtol=1e-5, atol=1e-7)


class SometimesNaN(FakeMethod):
    def __init__(self, bad_calls):
        super().__init__()
        self.bad_calls = bad_calls

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        if len(self.calls) in self.bad_calls:
            output.loss = output.loss * math.nan
        return output


def test_step_that_is_not_finite_is_skipped_and_counted(bench):
    method = SometimesNaN({2, 4})
    result = bench.trainer(method=method, max_bad_steps=2).train()
    assert (result.step, result.skipped_steps) == (6, 2)
    assert all(tensor.isfinite().all() for tensor in method.trained().values())
    events = read_log(bench.folder / "out" / "log.jsonl")
    assert [record["step"] for record in events if record["event"] == "skip"] == [2, 4]
    assert events[1]["loss"] is None


def test_many_such_steps_in_a_row_end_the_run(bench):
    with pytest.raises(LtmError, match="not finite in 3 steps in a row .*lower learning_rate"):
        bench.trainer(method=SometimesNaN({2, 3, 4}), max_bad_steps=3).train()


def test_validation_leaves_training_as_it_was(bench):
    plain, watched = FakeMethod(), FakeMethod()
    bench.trainer("plain", plain).train()
    result = bench.trainer("watched", watched, bench.validation(), eval_every=2).train()
    assert_same_weights(plain, watched)
    assert set(result.validation) == {"perplexity", "perplexity_memory_off"}
    assert result.validation["perplexity"] != result.validation["perplexity_memory_off"]
    events = [r for r in read_log(bench.folder / "watched" / "log.jsonl") if r["event"] == "eval"]
    assert [record["step"] for record in events] == [0, 2, 4, 6]
    assert events[-1]["perplexity"] == pytest.approx(result.validation["perplexity"], rel=1e-5)
    assert {(call["rows"], call["training"]) for call in watched.calls} == {(2, True), (1, False)}


def test_limits_in_tokens_and_minutes_end_the_run(bench):
    result = bench.trainer("tokens", max_steps=None, max_tokens=50).train()
    assert 50 <= result.tokens < 50 + 16
    result = bench.trainer("minutes", max_steps=None, max_minutes=1e-4).train()
    assert result.step >= 1 and result.seconds >= 6e-3


def test_log_every_gathers_steps(bench):
    bench.trainer("each", log_every=1).train()
    bench.trainer("some", log_every=4).train()
    each, some = train_events(bench.folder / "each"), train_events(bench.folder / "some")
    assert [record["step"] for record in some] == [4, 6]
    assert some[0]["tokens"] == each[3]["tokens"]
    assert min(r["loss"] for r in each[:4]) < some[0]["loss"] < max(r["loss"] for r in each[:4])
    fields = {"event", "step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s", "seconds", "gate"}
    assert set(some[0]) == fields


def test_out_dir_explains_itself(bench):
    method = FakeMethod()
    bench.trainer(method=method, keep_checkpoints=1, save_every_steps=2).train()
    out = bench.folder / "out"
    record = json.loads((out / "train_config.json").read_text())
    assert record["config"]["batch_rows"] == 2 and record["method"] == "FakeMethod"
    assert record["num_trainable"] == sum(t.numel() for t in method.trained().values())
    assert record["data"]["documents_of_kind"] == {"0": 5}
    assert record["command"] and record["versions"]["torch"] == version("torch")
    saved = load_file(out / "fake.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in method.trained().items())
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000006"]
    kinds = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors"}  # no pickle


def test_folder_of_another_run_is_not_overwritten(bench):
    with pytest.raises(LtmError, match="holds no checkpoint to resume from"):
        bench.trainer().train(resume=True)
    bench.trainer().train()
    with pytest.raises(LtmError, match="holds a run .step-00000006.; resume it, or choose another folder"):
        bench.trainer().train()


def test_out_dir_that_cannot_be_made_is_refused(bench):
    (bench.folder / "file").write_text("in the way")
    with pytest.raises(LtmError, match="cannot write to .*file"):
        bench.trainer("file/out").train()


def test_method_without_trained_parts_is_refused(bench):
    method = FakeMethod()
    method.requires_grad_(False)
    with pytest.raises(LtmError, match="FakeMethod has nothing to train"):
        bench.trainer(method=method)


def test_only_matrices_decay(bench):
    method = FakeMethod()
    named = named_trainables(method, bench.config())
    groups = build_optimizer(named, bench.config(weight_decay=0.5)).param_groups
    names = {id(parameter): name for name, parameter in named.items()}
    decay = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert {name for name, value in decay.items() if value} == {"local.weight", "remembered.weight"}
    assert {"gate", "norm.weight", "norm.bias", "local.bias"} < set(decay)


def test_bf16_keeps_trained_weights_in_fp32(bench):
    method = FakeMethod().to(torch.bfloat16)
    assert choose_precision("auto", method, torch.device("cpu")) == "bf16"
    trainer = bench.trainer(method=method, precision="bf16", max_steps=3)
    seen = []
    method.local.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.train()
    assert seen == [torch.bfloat16] * 3
    assert {tensor.dtype for tensor in method.trained().values()} == {torch.float32}
    assert method.model.dtype == torch.bfloat16
    assert choose_precision("auto", FakeMethod(), torch.device("cpu")) == "fp32"


def test_activation_checkpointing_is_asked_of_the_method(bench):
    plain, asked = FakeMethod(), FakeMethod()
    bench.trainer("plain", plain, max_steps=1).train()
    bench.trainer("asked", asked, max_steps=1, activation_checkpointing=True).train()
    assert (plain.checkpointed, asked.checkpointed) == (False, True)


def test_second_signal_interrupts_at_once():
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background start with it ignored
    try:
        with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.name == "SIGINT"
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, former)
