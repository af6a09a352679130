"""Options out of config dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import typer

from ltm.cli.options import config_options, run_with_options


@dataclass(frozen=True)
class Config:
    """Of a method."""

    chunk_size: int = 4
    """Tokens that share
    a key."""
    rate: float | None = 0.5
    """Unset: none."""
    fusion: Literal["gate", "softmax"] = "gate"
    on: bool = True
    steps: int | None = None
    """How many."""


def run(*arguments: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def command(name: Annotated[str, typer.Option("--name")] = "x", **values: Any) -> None:
        """Help."""
        seen.update(values, name=name)

    run_with_options(command, config_options(Config), arguments, "ltm test", "Try: ltm test")
    return seen


def test_each_field_has_its_sentence():
    helps = {option.name: option.help for option in config_options(Config)}
    assert helps == {
        "chunk_size": "Tokens that share a key.",
        "rate": "Unset: none.",
        "fusion": "",
        "on": "",
        "steps": "How many.",
    }


def test_defaults_are_the_configs_own():
    assert run() == {"chunk_size": 4, "rate": 0.5, "fusion": "gate", "on": True, "steps": None, "name": "x"}


def test_values_are_parsed_by_type():
    given = run("--chunk-size", "2", "--rate", "none", "--fusion", "softmax", "--no-on", "--steps", "7", "--name", "y")
    assert given == {"chunk_size": 2, "rate": None, "fusion": "softmax", "on": False, "steps": 7, "name": "y"}


@pytest.mark.parametrize("arguments", [("--steps", "many"), ("--chunk-size", "1.5"), ("--unknown", "1")])
def test_wrong_values_are_refused(arguments):
    with pytest.raises(typer.BadParameter.__mro__[1]) as caught:
        run(*arguments)
    assert arguments[0] in caught.value.format_message()  # type: ignore[attr-defined]


def test_real_configs_have_a_sentence_for_every_field():
    from ltm.learning import LEARNERS
    from ltm.methods import METHODS
    from ltm.training import TrainConfig

    configs = [TrainConfig, *(entry.config_class for entry in (*METHODS.values(), *LEARNERS.values()))]
    missing = [f"{c.__name__}.{o.name}" for c in configs for o in config_options(c) if not o.help.endswith(".")]
    assert missing == []
