"""NewMethod: what its paper says, by hand and against a naive form in tests/reference/."""

from __future__ import annotations

import pytest
import torch

from ltm.backbone import load_backbone
from ltm.cli.templates.attention import NewMethod, NewMethodConfig
from ltm.errors import ConfigError


def test_defaults_are_the_papers():
    """A default that changes unnoticed is another method."""
    config = NewMethodConfig()
    assert (config.top_k, config.local_window, config.memory_size) == (32, 1024, 65536)


def test_a_wrong_config_tells_all_its_problems():
    with pytest.raises(ConfigError, match="segment_size=1.*top_k=0"):
        NewMethodConfig(top_k=0, segment_size=1)


def test_what_was_read_changes_what_is_said():
    method = NewMethod(load_backbone("tiny-llama"), NewMethodConfig.tiny()).eval()
    past, present = torch.randint(5, 90, (2, 30)), torch.randint(5, 90, (2, 7))
    with torch.no_grad():
        before = method(present).logits
        method.read(past)
        after = method(present).logits
    assert not torch.allclose(before, after)
