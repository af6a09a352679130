"""One optimizer step of all processes together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .optimizer import gradient_norm, sum_gradients
from .run import Run
from .stream import Batch


@dataclass(frozen=True)
class StepFigures:
    """What a step came to, over all processes.

    loss: mean over scored tokens, nats; penalty: what a learner added to it; grad_norm: before clipping; scored,
    tokens: how many were scored and read; applied: False where loss or gradient was not finite, so that the weights
    were left alone; stop_asked: a process was asked to stop; seconds: the first process's clock.
    """

    loss: float
    penalty: float
    grad_norm: float
    scored: int
    tokens: int
    applied: bool
    stop_asked: bool
    seconds: float


class Stepper:
    """Takes the steps of a run; processes meet in it and leave it with the same weights and the same figures.

    precision: 'fp32' or 'bf16' (autocast; weights and gradients stay float32).
    """

    def __init__(self, run: Run, precision: str):
        self.run, self.precision, self.device = run, precision, run.device

    def step(
        self,
        batches: Sequence[Batch],
        *,
        rate: float,
        stop_asked: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> StepFigures:
        """One step over consecutive batches with this learning rate.

        stop_asked and clock tell of this process, and are asked once the gradients are there.
        """
        run = self.run
        batches = [run.learner.batch(batch) for batch in batches]
        counts = sum(batch.num_scored for batch in batches), sum(batch.num_tokens for batch in batches)
        scored, tokens = (int(count) for count in self.sum(*counts))
        own_loss, own_penalty = self._backward(batches, scored)
        sum_gradients(run.parameters, run.accelerator)
        run.learner.gradients(run.parameters)
        first = run.accelerator.is_main_process
        # one clock and one decision: processes that disagreed on either would part company
        loss, penalty, asked, seconds = self.sum(own_loss, own_penalty, float(stop_asked()), clock() if first else 0.0)
        norm = gradient_norm(run.parameters, run.config.max_grad_norm)
        finite = math.isfinite(loss + penalty) and math.isfinite(norm)
        if finite:
            for group in run.optimizer.param_groups:
                group["lr"] = rate
            run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        return StepFigures(loss, penalty, norm, scored, tokens, finite, asked > 0, seconds)

    def _backward(self, batches: Sequence[Batch], scored: int) -> tuple[float, float]:
        """Gradients of the mean loss over the step's `scored` tokens; returns this process's part, and what the
        learner added to it.

        Groups of `backprop_segments` batches have one graph, in which the loss of the last reaches what the first
        left in memory. Afterwards the memory is cut off from it: the weights are about to change.
        """
        total, added = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        size = self.run.config.backprop_segments
        for start in range(0, len(batches), size):
            parts = []
            for batch in batches[start : start + size]:
                share = batch.num_scored / scored  # batches and processes score different numbers of tokens
                loss, aim = self._losses(batch)
                parts.append(aim * share)
                total += loss.detach() * share
                added += (aim - loss).detach() * share
            group = sum(parts[1:], parts[0])
            if group.requires_grad:  # else nothing that is trained took part: a pointer beside an empty memory
                group.backward()
            if self.run.memory is not None:
                self.run.memory.detach()
        return float(total), float(added)

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean loss over the scored tokens of a batch, which is remembered; and what the learner makes of it."""
        run, inputs = self.run, self.run.inputs(batch)
        with self.autocast():
            run.learner.before(run.method, inputs)
            output = run.method(**inputs)
            return output.loss, run.learner.loss(run.method, inputs, output)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of this run's forward passes."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def sum(self, *values: float) -> list[float]:
        """Each value summed over processes."""
        if self.run.accelerator.num_processes == 1:
            return [float(value) for value in values]
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        return list(self.run.accelerator.reduce(totals, reduction="sum").tolist())
