"""LoRA through PEFT's layers, without PEFT's wrapper around the model."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ltm.errors import LtmError
from ltm.methods import create_method
from ltm.methods.parametric.lora import LoraConfig


@pytest.fixture
def lora(tiny_backbone):
    pytest.importorskip("peft", reason="method lora needs PEFT")
    return create_method("lora", tiny_backbone("tiny-llama"), rank=3, alpha=6.0)


def test_the_layers_compute_the_paper_s_equation_and_its_gradients(lora):
    for module in (nn.Linear(5, 7), Conv1D(7, 5)):
        wrapped = lora.wrap(module)
        own = {name: p for name, p in wrapped.named_parameters() if "base_layer" not in name}
        (down, up) = own.values()
        assert down.shape == (3, 5) and up.shape == (7, 3) and not up.any()
        nn.init.normal_(up)
        x = torch.randn(2, 4, 5)
        expected = module(x) + 6.0 / 3 * (x @ down.T @ up.T)
        torch.testing.assert_close(wrapped(x), expected)
        fast = torch.autograd.grad(wrapped(x).square().sum(), (down, up))
        slow = torch.autograd.grad(expected.square().sum(), (down, up))
        for one, other in zip(fast, slow, strict=True):
            torch.testing.assert_close(one, other)
        assert lora.delta(wrapped).shape == module.weight.shape


def test_peft_leaves_nothing_on_the_backbone(lora):
    model = lora.backbone.model
    assert not hasattr(model, "peft_config") and not any("lora" in name for name, _ in model.named_modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_paper_s_defaults():
    """Hu et al., section 4.1: alpha is the first rank tried, so that the scale is 1; rank as PEFT's."""
    config = LoraConfig()
    assert (config.rank, config.alpha) == (8, None)


def test_without_peft_one_line_says_how_to_get_it(tiny_backbone, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(LtmError, match=r'pip install "ltm\[peft\]"'):
        create_method("lora", tiny_backbone("tiny-llama"))
