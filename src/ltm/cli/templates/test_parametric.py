"""NewMethod: what its paper says, by hand and against a naive form in tests/reference/."""

from __future__ import annotations

import pytest
import torch

from ltm.backbone import load_backbone
from ltm.cli.templates.parametric import NewMethod, NewMethodConfig
from ltm.errors import ConfigError


def test_defaults_are_the_papers():
    """A default that changes unnoticed is another method."""
    config = NewMethodConfig()
    assert (config.scale, config.modules) == (1.0, "all")


def test_a_wrong_config_tells_all_its_problems():
    with pytest.raises(ConfigError, match="local_window=1.*read_steps=0"):
        NewMethodConfig(read_steps=0, local_window=1)


def test_what_was_read_changes_what_is_said():
    method = NewMethod(load_backbone("tiny-llama"), NewMethodConfig.tiny()).eval()
    past, present = torch.randint(5, 90, (2, 30)), torch.randint(5, 90, (2, 7))
    with torch.no_grad():
        before = method(present).logits
        method.read(past)
        after = method(present).logits
    assert not torch.allclose(before, after)
