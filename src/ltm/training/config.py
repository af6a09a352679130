"""TrainConfig: everything a training run can be told, with a help sentence for each field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ltm.configs import choice_problems, range_problems
from ltm.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """How to train a method; sizes are in tokens, per process where rows are meant, seeds are exact.

    At least one of max_steps, max_tokens and max_minutes must be set: the run ends at the first that is
    reached, and the learning rate decays along the one that is furthest on. Raises ConfigError with all
    problems together.

    >>> TrainConfig(max_steps=1000, segment_size=256).learning_rate
    0.0002
    """

    batch_rows: int = 1
    """Documents read side by side in each process; more is steadier and takes more memory."""
    segment_size: int = 1024
    """Tokens of a document that are scored together in one pass."""
    max_document_tokens: int | None = None
    """Longest stretch of one document, in tokens, cut at a random place; unset: whole documents."""
    learning_rate: float = 2e-4
    """Highest learning rate of AdamW, after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    schedule: Literal["linear", "cosine", "polynomial", "constant"] = "polynomial"
    """How the learning rate falls to zero: linear, cosine, polynomial, constant (does not fall)."""
    schedule_power: float = 1.0
    """Exponent of the polynomial schedule; 1 is a straight line, 2 falls faster."""
    adam_beta1: float = 0.9
    """Decay of AdamW's mean of gradients."""
    adam_beta2: float = 0.98
    """Decay of AdamW's mean of squared gradients."""
    weight_decay: float = 0.01
    """Weight decay of matrices; norms, biases and other vectors have none."""
    max_grad_norm: float | None = 1.0
    """Gradients longer than this are shortened to it; unset: never."""
    gradient_accumulation: int = 1
    """Consecutive segments of each row that make one step (see next)."""
    backprop_segments: int = 1
    """Consecutive segments whose losses are back-propagated at once, through what was remembered in between; a step has
    gradient_accumulation times as many; more than 1 needs a memory that was computed with gradients."""
    max_steps: int | None = None
    """Stop after this many optimizer steps."""
    max_tokens: int | None = None
    """Stop after this many training tokens, all processes together."""
    max_minutes: float | None = None
    """Stop after this many minutes of training, interruptions not counted."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """fp32, bf16 (trained weights stay fp32), or auto: bf16 on a GPU that has it."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, slower."""
    seed: int = 0
    """Seed of the order of documents, their cuts and dropout."""
    log_every: int = 1
    """Steps between two records of the log."""
    eval_every: int | None = 100
    """Steps between two evaluations, if validation data are given; unset: never."""
    save_every_steps: int | None = None
    """Steps between two checkpoints; unset: see save_every_minutes."""
    save_every_minutes: float | None = 10.0
    """Minutes between two checkpoints; unset: only at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept; older ones are removed."""
    train_only: str | None = None
    """Train only weights whose name contains this, such as pointer; unset: all."""
    train_backbone: str | None = None
    """Train the backbone's weights, too, whose name contains this, such as layers.29; unset: none (frozen)."""
    max_bad_steps: int = 5
    """Stop after this many steps in a row whose loss or gradient is not finite."""

    def __post_init__(self) -> None:
        problems = range_problems(self.to_dict()) + self._wrong_counts() + self._wrong_rates() + self._wrong_choices()
        if problems:
            raise ConfigError(problems)

    def _wrong_counts(self) -> list[str]:
        least = {"segment_size": 2, "max_document_tokens": 2, "warmup_steps": 0, "seed": 0}
        names = [f.name for f in fields(self) if f.type in ("int", "int | None")]
        problems = [
            f"{name}={value!r}; use a whole number of {least.get(name, 1)} or more"
            for name in names
            if not _is_count(value := getattr(self, name), least.get(name, 1), optional=_may_be_unset(name))
        ]
        return problems + ([f"seed={self.seed}; use less than 2**32"] if self.seed >= 2**32 else [])

    def _wrong_rates(self) -> list[str]:
        positive = ("learning_rate", "schedule_power", "max_grad_norm", "max_minutes", "save_every_minutes")
        problems = [
            f"{name}={value!r}; use a number above 0"
            for name in positive
            if not _is_between(value := getattr(self, name), 0, math.inf, optional=_may_be_unset(name)) or value == 0
        ]
        for name in ("adam_beta1", "adam_beta2"):
            if not _is_between(value := getattr(self, name), 0, 1):
                problems.append(f"{name}={value!r}; use a number from 0 to below 1")
        if not _is_between(self.weight_decay, 0, math.inf):
            problems.append(f"weight_decay={self.weight_decay!r}; use 0 or more")
        return problems

    def _wrong_choices(self) -> list[str]:
        problems = choice_problems(self)
        if self.max_steps is None and self.max_tokens is None and self.max_minutes is None:
            problems.append("no end is set; give max_steps, max_tokens or max_minutes")
        return problems

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """A config from a JSON object; unknown names raise ConfigError with the known ones."""
        known = [f.name for f in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ConfigError(f"unknown training options {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**values)


def _may_be_unset(name: str) -> bool:
    return "None" in str(TrainConfig.__dataclass_fields__[name].type)


def _is_count(value: Any, least: int, optional: bool) -> bool:
    if value is None:
        return optional
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_between(value: Any, low: float, high: float, optional: bool = False) -> bool:
    """low <= value < high, for a real number."""
    if value is None:
        return optional
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value < high
