"""One optimizer step of all processes together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .config import TrainConfig
from .optimizer import gradient_norm, sum_gradients
from .protocol import TrainableMethod, detach_memory, forget_rows
from .stream import Batch


@dataclass(frozen=True)
class StepFigures:
    """What a step came to, over all processes.

    loss: mean over scored tokens, nats; grad_norm: before clipping; scored, tokens: how many were scored and
    read;
    applied: False where loss or gradient was not finite, so that the weights were left alone; stop_asked: a
    process was asked to stop; seconds: the first process's clock.
    """

    loss: float
    grad_norm: float
    scored: int
    tokens: int
    applied: bool
    stop_asked: bool
    seconds: float


class Stepper:
    """Runs steps of one method; processes meet in it and leave it with the same weights and the same figures.

    config: the run's. precision: 'fp32' or 'bf16' (autocast; weights and gradients stay float32).
    """

    def __init__(
        self,
        method: TrainableMethod,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        config: TrainConfig,
        *,
        precision: str,
    ):
        self.method, self.parameters, self.optimizer, self.accelerator = (
            method,
            parameters,
            optimizer,
            accelerator,
        )
        self.device = next(iter(parameters.values())).device
        self.precision, self.config = precision, config

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
        counts = sum(batch.num_scored for batch in batches), sum(batch.num_tokens for batch in batches)
        scored, tokens = (int(count) for count in self.sum(*counts))
        own_loss = self._backward(batches, scored)
        sum_gradients(self.parameters, self.accelerator)
        first = self.accelerator.is_main_process
        # one clock and one decision: processes that disagreed on either would part company
        loss, asked, seconds = self.sum(own_loss, float(stop_asked()), clock() if first else 0.0)
        norm = gradient_norm(self.parameters, self.config.max_grad_norm)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepFigures(loss, norm, scored, tokens, finite, asked > 0, seconds)

    def _backward(self, batches: Sequence[Batch], scored: int) -> float:
        """Gradients of the mean loss over the step's `scored` tokens; returns this process's part.

        Groups of `backprop_segments` batches have one graph, in which the loss of the last reaches what the first
        left in memory. Afterwards the memory is cut off from it: the weights are about to change.
        """
        total, size = torch.zeros((), device=self.device), self.config.backprop_segments
        for start in range(0, len(batches), size):
            # batches and processes score different numbers of tokens
            parts = [self._loss(batch) * (batch.num_scored / scored) for batch in batches[start : start + size]]
            loss = sum(parts[1:], parts[0])
            if loss.requires_grad:  # else nothing that is trained took part: a pointer beside an empty memory
                loss.backward()
            detach_memory(self.method)
            total += loss.detach()
        return float(total)

    def _loss(self, batch: Batch) -> Tensor:
        """Mean loss over the scored tokens of a batch, which is remembered."""
        moved = batch.to(self.device)
        forget_rows(self.method, moved.starts)
        with self.autocast():
            loss: Tensor = self.method(
                input_ids=moved.input_ids, attention_mask=moved.attention_mask, labels=moved.labels, remember=True
            ).loss
        return loss

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of this run's forward passes."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def sum(self, *values: float) -> list[float]:
        """Each value summed over processes."""
        if self.accelerator.num_processes == 1:
            return [float(value) for value in values]
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        return list(self.accelerator.reduce(totals, reduction="sum").tolist())
