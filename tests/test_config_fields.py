"""Configs from keyword options: what is refused, and what the error calls its owner."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import pytest

from ltm.bank import BankConfig
from ltm.cli.options import config_options
from ltm.configs import BankFields, Config, RecentFields, WindowFields, choices, config_from_options
from ltm.errors import ConfigError
from ltm.methods import METHODS
from ltm.methods.attention.em_llm.config import EmLlmConfig
from ltm.methods.attention.longmem.config import LongMemConfig
from ltm.methods.baselines.full import FullConfig
from ltm.methods.baselines.sinks import SinksConfig
from ltm.methods.baselines.window import WindowConfig
from ltm.text.generation import Sampling


def test_the_error_names_its_owner_and_what_is_known():
    with pytest.raises(ConfigError, match=r"^generation has no option top_z; it has: max_new_tokens, "):
        config_from_options(Sampling, {"top_z": 1}, "generation")


def test_all_values_of_another_type_are_told_together():
    with pytest.raises(ConfigError) as error:
        config_from_options(Sampling, {"temperature": "hot", "max_new_tokens": 1.5}, "generation")
    assert [problem.partition("=")[0] for problem in error.value.problems] == ["temperature", "max_new_tokens"]


@dataclass(frozen=True)
class Some(WindowFields):
    """A config with everything that is checked."""

    share: float = 0.5
    """A share."""
    local_window: int = 64
    """Its own sentence."""
    kind: Literal["a", "b"] | None = None

    LEAST = {"share": 0}
    MOST = {"share": 1}

    def problems(self) -> list[str]:
        return [*super().problems(), *(["share=0.25; use another"] if self.share == 0.25 else [])]


def test_all_checks_speak_together_those_of_the_bases_included():
    with pytest.raises(ConfigError) as error:
        Some(local_window=1, stride=3, share=2, kind="c")
    assert error.value.problems == [
        "local_window=1; use 2 or more",
        "share=2; use 1 or less",
        "kind='c'; use one of a, b, None",
        "stride=3; use 1 to 1",
    ]
    with pytest.raises(ConfigError, match="^share=0.25; use another$"):
        Some(share=0.25)
    assert Some(stride=64).kind is None


def test_choices_come_from_annotations():
    assert choices(Literal["a", "b"]) == ("a", "b") and choices(Literal["a"] | None) == ("a", None)
    assert [choices(hint) for hint in (int, int | None, str, list[int], bool | None)] == [None] * 5


def test_a_sentence_is_inherited_unless_a_class_has_its_own():
    helps = {option.name: option.help for option in config_options(Some)}
    assert helps["local_window"] == "Its own sentence." and helps["share"] == "A share."
    assert helps["stride"].startswith("Tokens that leave when the window is full")


def test_shared_fields_are_written_once():
    """LongMem, the Memorizing Transformer and banks take them from their base; only a paper's own value is theirs."""
    shared = {field.name for field in fields(BankFields)} | {field.name for field in fields(RecentFields)}
    own = {
        name: set(vars(METHODS[name].config_class)["__annotations__"]) & shared for name in ("longmem", "memorizing")
    }
    assert own == {"longmem": {"segment_size"}, "memorizing": {"segment_size", "memory_size"}}
    assert set(vars(BankConfig)["__annotations__"]) & shared == {"memory_size", "index"}
    assert [field.name for field in fields(BankConfig)][:3] == ["chunk_size", "memory_size", "memory_bytes"]


def test_a_method_says_by_which_options_it_is_held_to_a_window_or_a_budget():
    assert FullConfig.with_window(64, 8) == {} and FullConfig.with_budget(tokens=9) == {}
    assert WindowConfig.with_window(64) == {"local_window": 64}
    assert WindowConfig.with_window(64, 64) == {"local_window": 64, "stride": 64}
    assert SinksConfig.with_window(64, 64) == {"local_window": 64, "stride": 60}
    assert EmLlmConfig.with_window(64, 16) == {"local_window": 64, "stride": 16}
    assert LongMemConfig.with_budget(tokens=64) == {"memory_size": 64}
    assert LongMemConfig.with_budget(num_bytes=9) == {"memory_bytes": 9}
    for method in METHODS.values():
        assert issubclass(method.config_class, Config)
        for options in (method.config_class.with_window(512, 512), method.config_class.with_budget(4096, 2**20)):
            method.config_class(**options)
