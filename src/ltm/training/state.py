"""How far a run is, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .step import StepFigures


@dataclass
class TrainState:
    """How far a run is (in a checkpoint: state.json). seconds: of training, over all parts of the run.

    stage: the stream that is read, from 0; stage_step, stage_tokens, stage_seconds: where it began.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    bad_steps_in_a_row: int = 0
    stage: int = 0
    stage_step: int = 0
    stage_tokens: int = 0
    stage_seconds: float = 0.0

    def begin_next_stage(self) -> None:
        self.stage += 1
        self.stage_step, self.stage_tokens, self.stage_seconds = self.step, self.tokens, self.seconds


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
class LogInterval:
    """Steps since the last log record; since: the clock at its beginning."""

    since: float
    steps: list[StepFigures] = field(default_factory=list)
