"""Trainer: the training loop. It sees a method through `TrainableMethod` alone, never asks which it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed

from ltm.console import RunDisplay
from ltm.errors import LtmError
from ltm.training.learner import Learner
from ltm.training.saved_learner import save_learner

from .checkpoint import Checkpointer, list_checkpoints
from .config import TrainConfig
from .log import TrainLog
from .optimizer import build_optimizer, freeze_backbone, named_trainables, share_weights
from .plot import plot_loss
from .protocol import TrainableMethod
from .record import BACKBONE_FOLDER, PLOT_FILE, check_out, write_run_record
from .run import Run
from .schedule import learning_rate_at, progress_fraction
from .setup import choose_device, choose_precision, make_accelerator
from .signals import StopRequest
from .state import LogInterval, TrainResult, TrainState
from .step import StepFigures, Stepper
from .stream import SegmentStream
from .validation import Validate


class Trainer:
    """Trains a method on a stream of segments; the result lies in out_dir as the method saves itself.

    stream: see `SegmentStream`, or several, which are trained on one after another as stages: each has all of the
    config's steps, tokens or minutes, and begins as a run of its own would, from the weights of the stage before. The
    trainer shards streams over processes. learner: what keeps earlier stages from being forgotten; None: nothing.
    validation: a `Validation`, or any function of the method that gives figures. plot: draw loss.png from the log at
    the end. quiet: show nothing.
    One process trains on the device that the method is on, several (torchrun, accelerate launch) on one each.

    out_dir gets train_config.json, log.jsonl, loss.png, checkpoints/, what the method and the learner save, and
    backbone/ where that was trained, too: what was trained beside it belongs to it as it is there.

    >>> stream = SegmentStream.from_config(corpus, tokenizer, config)  # doctest: +SKIP
    >>> trainer = Trainer(method, stream, config, "out")  # doctest: +SKIP
    >>> trainer.train().loss  # doctest: +SKIP
    2.91
    """

    def __init__(
        self,
        method: TrainableMethod,
        stream: SegmentStream | Sequence[SegmentStream],
        config: TrainConfig,
        out_dir: str | Path,
        validation: Validate | None = None,
        *,
        learner: Learner | None = None,
        plot: bool = True,
        quiet: bool = False,
    ):
        self.accelerator = make_accelerator(method)
        self.config, self.out_dir, self.validation = config, Path(out_dir), validation
        self.plot, self.quiet = plot, quiet
        self.device = choose_device(method, self.accelerator)
        self.method = method.to(self.device)
        self.parameters = named_trainables(method, config)
        for parameter in self.parameters.values():
            # also beside a bf16 backbone: bf16 would lose small updates
            parameter.data = parameter.data.float()
        self.precision = choose_precision(config.precision, method, self.device)
        self.optimizer = build_optimizer(self.parameters, config)
        streams = [stream] if isinstance(stream, SegmentStream) else list(stream)
        for each in streams:
            each.shard(self.accelerator.process_index, self.accelerator.num_processes)
        shared = method, self.parameters, self.optimizer, self.accelerator
        self.run = Run(*shared, streams, learner or Learner(), config)
        self.run.memory = self.run.empty_memory()
        self.stepper = Stepper(self.run, self.precision)
        self.checkpoints = Checkpointer(self.run, self.out_dir, keep=config.keep_checkpoints)

    @property
    def state(self) -> TrainState:
        """How far the run is."""
        return self.run.state

    @property
    def stream(self) -> SegmentStream:
        """What the present stage reads."""
        return self.run.stream

    @property
    def num_trainable(self) -> int:
        """Weights that are trained, the backbone's included."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def train(self, resume: bool = False) -> TrainResult:
        """Train to the end, or until SIGINT or SIGTERM, which let the step finish and save a checkpoint.

        resume: go on from the newest checkpoint in out_dir, exactly as if the run had never stopped.
        Raises LtmError where out_dir holds another run, a checkpoint is damaged or cannot be written, or the
        loss stays infinite.
        """
        self.method.in_training = True
        try:
            self._begin(resume)
            shown = self.accelerator.is_main_process and not self.quiet
            with StopRequest() as stop, RunDisplay(shown) as self.display:
                stopped = self._run_stages(stop)
                checkpoint = self._save()
                self._conclude(stopped, checkpoint)
        finally:
            self.method.in_training = False
            freeze_backbone(self.parameters)
        state = {name: getattr(self.state, name) for name in ("step", "tokens", "seconds", "skipped_steps")}
        return TrainResult(**state, loss=self._loss, validation=self._figures, stopped=stopped, checkpoint=checkpoint)

    def _begin(self, resume: bool) -> None:
        """Restore a run or start one."""
        checkpoint = _checkpoint_to_resume(self.out_dir, resume)
        if self.config.activation_checkpointing:
            self.method.activation_checkpointing_enable()
        self.method.train()
        self._saved_at = self._validated_at = -1
        if checkpoint is not None:
            self.checkpoints.load(checkpoint)
            self._saved_at, self._path = self.state.step, checkpoint
        else:
            self._begin_stage()
        if self.accelerator.is_main_process:
            write_run_record(self.out_dir, self._about())
            self.log = TrainLog(self.out_dir, after_step=self.state.step if resume else None)
        self._started = time.monotonic() - self.state.seconds
        self._saved_seconds = self.state.seconds
        self._interval = LogInterval(since=self.state.seconds)
        self._loss: float | None = None
        self._figures: dict[str, float] = {}

    def _about(self) -> dict[str, Any]:
        """What this run is, for its record."""
        return {
            "method": type(self.method).__name__,
            "num_trainable": self.num_trainable,
            "config": self.config.to_dict(),
            "precision": self.precision,
            "device": str(self.device),
            "processes": self.accelerator.num_processes,
            "learner": {"name": self.run.learner.name, "config": self.run.learner.describe()},
            "data": self.run.streams[0].describe(),
            "later_stages": [stream.describe() for stream in self.run.streams[1:]],
        }

    def _begin_stage(self) -> None:
        """As a run begins, with the weights as they are: nothing is remembered, and the optimizer has seen nothing."""
        set_seed(self.config.seed, device_specific=True)
        share_weights(self.parameters, self.accelerator)
        self.optimizer.state.clear()
        self.run.memory = self.run.empty_memory()
        self.run.begin_stage()

    def _run_stages(self, stop: StopRequest) -> str | None:
        """Stages until the end of the last or a stop; returns the signal's name or None."""
        if self.state.step == 0:
            self._validate()
        while True:
            stopped = self._run_stage(stop)
            if stopped is not None or self.state.stage + 1 == len(self.run.streams):
                return stopped
            self._end_stage()
            self.state.begin_next_stage()
            self._write("stage", stage=self.state.stage, tokens=self.state.tokens)
            self._begin_stage()

    def _end_stage(self) -> None:
        with self._evaluating(), torch.enable_grad():
            self.run.end_stage()

    def _run_stage(self, stop: StopRequest) -> str | None:
        """Steps until the end of a stage or a stop, with what is due after each; returns the signal's name or None."""
        while self._progress() < 1:
            figures = self._step(stop)
            if self._due(self.config.log_every) or figures.stop_asked or self._progress() >= 1:
                self._log_interval()
            if figures.stop_asked:
                return stop.name or "a signal in another process"
            if self._due(self.config.eval_every) or self._progress() >= 1:
                self._validate()
            minutes = (self.state.seconds - self._saved_seconds) / 60
            late = self.config.save_every_minutes is not None and minutes >= self.config.save_every_minutes
            if late or self._due(self.config.save_every_steps):
                self._save()
        return None

    def _step(self, stop: StopRequest) -> StepFigures:
        """One optimizer step, counted; too many in a row that are not finite end the run."""
        batches = [next(self.stream) for _ in range(self.config.gradient_accumulation * self.config.backprop_segments)]
        rate = learning_rate_at(self.config, self.state.step - self.state.stage_step, self._progress())
        figures = self.stepper.step(
            batches,
            rate=rate,
            stop_asked=lambda: stop.name is not None,
            clock=lambda: time.monotonic() - self._started,
        )
        state = self.state
        state.step, state.tokens, state.seconds = (
            state.step + 1,
            state.tokens + figures.tokens,
            figures.seconds,
        )
        state.bad_steps_in_a_row = 0 if figures.applied else state.bad_steps_in_a_row + 1
        if figures.applied:
            self._interval.steps.append(figures)
        else:
            state.skipped_steps += 1
            self._write("skip", loss=figures.loss, grad_norm=figures.grad_norm)
        if state.bad_steps_in_a_row >= self.config.max_bad_steps:
            raise LtmError(
                f"loss or gradient was not finite in {state.bad_steps_in_a_row} steps in a row "
                f"(step {state.step}, loss {figures.loss:.4g}, gradient norm {figures.grad_norm:.4g}); "
                "try a lower learning_rate, more warmup_steps or precision fp32"
            )
        return figures

    # what is due between steps

    def _log_interval(self) -> None:
        """Write a log record over the steps since the last, and show it."""
        interval, self._interval = self._interval, LogInterval(since=self.state.seconds)
        if not interval.steps:
            return
        steps, scored = interval.steps, sum(step.scored for step in interval.steps)
        self._loss = sum(step.loss * step.scored for step in steps) / scored
        penalty = sum(step.penalty * step.scored for step in steps) / scored
        speed = sum(step.tokens for step in steps) / max(self.state.seconds - interval.since, 1e-9)
        with torch.no_grad():
            gates = dict(self.method.gate_summary())
        if penalty:
            gates["penalty"] = penalty
        self._write(
            "train",
            tokens=self.state.tokens,
            loss=self._loss,
            lr=self.optimizer.param_groups[0]["lr"],
            grad_norm=sum(step.grad_norm for step in steps) / len(steps),
            tokens_per_s=speed,
            seconds=self.state.seconds,
            **gates,
        )
        self._show({**gates, "tokens/s": speed})

    def _validate(self) -> None:
        """Evaluate on the first process, with memories of its own; training's memory and randomness stay."""
        if self.validation is None or self.config.eval_every is None or self._validated_at == self.state.step:
            return
        self._validated_at = self.state.step
        if self.accelerator.is_main_process:
            with self._evaluating():
                self._figures = dict(self.validation(self.method))
            self._write("eval", tokens=self.state.tokens, **self._figures)
            self._show({}, force=True)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self.method.train(False)
        try:
            with (
                torch.no_grad(),
                self.stepper.autocast(),
                torch.random.fork_rng(),
            ):
                yield
        finally:
            self.method.train()

    def _save(self) -> Path:
        """A checkpoint of the present step, unless it has one; returns its path."""
        if self._saved_at != self.state.step:
            self._path = self.checkpoints.save()
            self._saved_at, self._saved_seconds = self.state.step, self.state.seconds
        return self._path

    def _conclude(self, stopped: str | None, checkpoint: Path) -> None:
        """Save the trained method, the learner and the plot, or say how to go on."""
        if stopped is None:
            self._end_stage()
        if not self.accelerator.is_main_process:
            return
        self._write("stop", tokens=self.state.tokens, seconds=self.state.seconds, reason=stopped or "end of training")
        if stopped is not None:
            how = "go on with train(resume=True), or the same command and --resume"
            self.display.message(f"stopped by {stopped} after step {self.state.step}; saved {checkpoint}; {how}")
            return
        if self.config.train_backbone is not None:
            self.method.backbone.save(self.out_dir / BACKBONE_FOLDER)
        self.method.save_pretrained(self.out_dir)
        save_learner(self.run.learner, self.out_dir)
        if self.plot:
            try:
                plot_loss(self.log.path, self.out_dir / PLOT_FILE)
            except LtmError as error:
                self.display.message(f"no loss plot: {error}")
        self.display.message(f"trained for {self.state.step} steps; saved to {self.out_dir}")

    # small things

    def _progress(self) -> float:
        """Of the present stage, 0 to 1."""
        state = self.state
        return progress_fraction(
            self.config,
            step=state.step - state.stage_step,
            tokens=state.tokens - state.stage_tokens,
            seconds=state.seconds - state.stage_seconds,
        )

    def _due(self, every: int | None) -> bool:
        return every is not None and self.state.step % every == 0

    def _write(self, event: str, **values: Any) -> None:
        if self.accelerator.is_main_process:
            self.log.write(event, step=self.state.step, **values)

    def _show(self, more: dict[str, Any], force: bool = False) -> None:
        facts: dict[str, Any] = {"step": self.state.step, "loss": self._loss}
        facts["perplexity"] = self._figures.get("perplexity")
        facts["memory off"] = self._figures.get("perplexity_memory_off")
        done = (self.state.stage + self._progress()) / len(self.run.streams)
        self.display.update(done, seconds=self.state.seconds, facts={**facts, **more}, force=force)


def _checkpoint_to_resume(out_dir: Path, resume: bool) -> Path | None:
    """The newest checkpoint of a run to resume, None for a new run; LtmError where the folder does not fit."""
    saved = list_checkpoints(out_dir)
    check_out(out_dir)
    if resume and not saved:
        raise LtmError(f"{out_dir} holds no checkpoint to resume from; leave resume out, or name its folder")
    if saved and not resume:
        raise LtmError(f"{out_dir} holds a run ({saved[-1].name}); resume it, or choose another folder")
    return saved[-1] if resume else None
