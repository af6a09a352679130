"""Learners by name, each imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm.configs import config_from_options
from ltm.registry import Registry

if TYPE_CHECKING:
    from ltm.training.learner import Learner

LEARNERS: Registry[type[Learner]] = Registry("learner", "ltm.learning", "ltm.learners")
register = LEARNERS.register


def create_learner(name: str, **options: Any) -> Learner:
    """A learner from its config's fields. Raises LtmError for an unknown name, ConfigError for a wrong option.

    >>> create_learner("ewc", strength=2.0).config.fisher_batches
    64
    """
    chosen = LEARNERS[name]
    return chosen(config_from_options(chosen.config_class, options, f"learner {name}"))
