"""Configs from keyword options: what is refused, and what the error calls its owner."""

from __future__ import annotations

import pytest

from ltm.configs import config_from_options
from ltm.errors import ConfigError
from ltm.generation import Sampling


def test_the_error_names_its_owner_and_what_is_known():
    with pytest.raises(ConfigError, match=r"^generation has no option top_z; it has: max_new_tokens, "):
        config_from_options(Sampling, {"top_z": 1}, "generation")


def test_all_values_of_another_type_are_told_together():
    with pytest.raises(ConfigError) as error:
        config_from_options(Sampling, {"temperature": "hot", "max_new_tokens": 1.5}, "generation")
    assert [problem.partition("=")[0] for problem in error.value.problems] == ["temperature", "max_new_tokens"]
