"""Learners: how weights that are trained on one thing after another keep what they knew. One file a strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm.learning.registry import LEARNERS, create_learner, register

if TYPE_CHECKING:
    from ltm.training.learner import Inputs, Learner

__all__ = ["LEARNERS", "Inputs", "Learner", "create_learner", "register"]


def __getattr__(name: str) -> Any:
    if name not in ("Inputs", "Learner"):
        raise AttributeError(f"module 'ltm.learning' has no attribute {name!r}")
    from ltm.training import learner

    return getattr(learner, name)
