"""TrainConfig: checks, help, JSON; the learning rate."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from ltm.cli.options import config_options
from ltm.errors import ConfigError
from ltm.training.config import TrainConfig
from ltm.training.schedule import learning_rate_at, progress_fraction


def test_defaults_are_the_papers():
    config = TrainConfig(max_steps=1)
    assert (config.learning_rate, config.adam_beta1, config.adam_beta2) == (2e-4, 0.9, 0.98)
    assert (config.weight_decay, config.schedule, config.segment_size) == (0.01, "polynomial", 1024)
    with pytest.raises(FrozenInstanceError):
        config.seed = 3


def test_every_field_has_a_help_sentence():
    for option in config_options(TrainConfig):
        assert option.help.endswith("."), option.name


def test_all_problems_are_told_together():
    with pytest.raises(ConfigError) as caught:
        TrainConfig(
            batch_rows=0,
            segment_size=1,
            learning_rate=-1.0,
            adam_beta2=1.0,
            schedule="step",
            precision="fp16",
            max_grad_norm=0,
            warmup_steps=2.5,
            keep_checkpoints=True,
        )
    wrong = ("batch_rows", "segment_size", "learning_rate", "adam_beta2", "schedule", "precision")
    wrong += ("max_grad_norm", "warmup_steps", "keep_checkpoints", "no end is set")
    assert len(caught.value.problems) == len(wrong)
    for word in wrong:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1e-4"])
def test_learning_rate_must_be_a_number(value):
    with pytest.raises(ConfigError, match="learning_rate"):
        TrainConfig(max_steps=1, learning_rate=value)


def test_json_round_trip_and_unknown_names():
    config = TrainConfig(max_minutes=1.5, max_grad_norm=None, seed=4)
    assert TrainConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="unknown training options lr; known are batch_rows"):
        TrainConfig.from_dict({"max_steps": 1, "lr": 1})


def test_progress_follows_the_limit_that_is_furthest_on():
    config = TrainConfig(max_steps=100, max_tokens=1000, max_minutes=1)
    assert progress_fraction(config, step=10, tokens=50, seconds=3) == pytest.approx(0.1)
    assert progress_fraction(config, step=10, tokens=400, seconds=3) == pytest.approx(0.4)
    assert progress_fraction(config, step=10, tokens=50, seconds=30) == pytest.approx(0.5)
    assert progress_fraction(config, step=10, tokens=50, seconds=90) == 1.0


@pytest.mark.parametrize(
    ("schedule", "power", "half"),
    [
        ("linear", 1, 0.5),
        ("polynomial", 1, 0.5),
        ("polynomial", 2, 0.25),
        ("cosine", 1, 0.5),
        ("constant", 1, 1.0),
    ],
)
def test_learning_rate_rises_then_falls(schedule, power, half):
    config = TrainConfig(max_steps=100, warmup_steps=9, learning_rate=1.0, schedule=schedule, schedule_power=power)
    assert [learning_rate_at(config, step, 0.0) for step in (0, 4, 9, 20)] == pytest.approx([0.1, 0.5, 1, 1])
    assert learning_rate_at(config, 50, 0.5) == pytest.approx(half)
    assert learning_rate_at(config, 99, 1.0) == pytest.approx(1.0 if schedule == "constant" else 0.0)
