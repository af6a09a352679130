"""How far a run is, and the learning rate that goes with it."""

from __future__ import annotations

import math

from .config import TrainConfig


def progress_fraction(config: TrainConfig, *, step: int, tokens: int, seconds: float) -> float:
    """How much of the run is done, 0 to 1: the limit (steps, tokens or minutes) that is furthest on.

    >>> progress_fraction(TrainConfig(max_steps=10, max_tokens=1000), step=2, tokens=500, seconds=3.0)
    0.5
    """
    limits = [
        (step, config.max_steps),
        (tokens, config.max_tokens),
        (seconds / 60, config.max_minutes),
    ]
    return min(max(done / limit for done, limit in limits if limit is not None), 1.0)


def learning_rate_at(config: TrainConfig, step: int, progress: float) -> float:
    """The learning rate of the step with this number (from 0), `progress` of the run being done before it.

    A linear rise over `warmup_steps`, times a fall over the whole run: the fall is told in progress, because
    a run that ends by the clock does not know its number of steps.
    """
    warmup = min((step + 1) / (config.warmup_steps + 1), 1.0)
    return config.learning_rate * warmup * _decay(config, progress)


def _decay(config: TrainConfig, progress: float) -> float:
    left = 1.0 - progress
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return left**config.schedule_power if config.schedule == "polynomial" else left
