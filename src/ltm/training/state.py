"""How far a run is, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .step import StepFigures


@dataclass
class TrainState:
    """How far a run is (in a checkpoint: state.json). seconds: of training, over all parts of the run."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    bad_steps_in_a_row: int = 0


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    loss: of the last log record; validation: the last figures; stopped: the signal's name, None at the end of
    training; checkpoint: the last one.
    """

    step: int
    tokens: int
    seconds: float
    skipped_steps: int
    loss: float | None
    validation: dict[str, float]
    stopped: str | None
    checkpoint: Path


@dataclass
class Interval:
    """Steps since the last log record; since: the clock at its beginning."""

    since: float
    steps: list[StepFigures] = field(default_factory=list)
