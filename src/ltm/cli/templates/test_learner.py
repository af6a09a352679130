"""NewMethod: its penalty by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ltm.cli.templates.learner import NewMethod, NewMethodConfig
from ltm.errors import ConfigError


def test_defaults_are_the_papers():
    """A default that changes unnoticed is another method."""
    assert NewMethodConfig().strength == 1.0


def test_a_wrong_config_is_refused():
    with pytest.raises(ConfigError, match="strength=-1"):
        NewMethodConfig(strength=-1)


def test_weights_are_held_where_the_last_stage_left_them():
    learner, weight = NewMethod(NewMethodConfig(strength=3.0)), nn.Parameter(torch.tensor([1.0, 2.0]))
    output = SimpleNamespace(loss=torch.tensor(0.5))
    learner.begin(0, None, {"weight": weight})
    assert learner.loss(None, {}, output) == 0.5
    learner.end(0, None, iter([]))
    weight.data += torch.tensor([1.0, -2.0])
    assert learner.loss(None, {}, output) == 0.5 + 3.0 / 2 * (1.0 + 4.0)


def test_what_it_keeps_is_saved_and_loaded():
    learner, weight = NewMethod(), nn.Parameter(torch.ones(2))
    learner.begin(0, None, {"weight": weight})
    learner.end(0, None, iter([]))
    again = NewMethod()
    again.begin(0, None, {"weight": weight})
    again.load_state_dict(learner.state_dict())
    assert torch.equal(again.kept["weight"], torch.ones(2))
