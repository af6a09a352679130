"""Learners: how weights that are trained on one thing after another keep what they knew. One file a strategy."""

from __future__ import annotations

from ltm.learning.base import Inputs, Learner
from ltm.learning.registry import LEARNERS, create_learner, register

__all__ = ["LEARNERS", "Inputs", "Learner", "create_learner", "register"]
