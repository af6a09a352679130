"""Rotation on and off: inverse of each other, the same as transformers' own, partial and scaled kinds."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ltm.attention import rotate, unrotate


def angles(tokens: int, rotary_dim: int, scaling: float = 1.0):
    frequencies = 100.0 ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim)
    turned = torch.arange(3, 3 + tokens, dtype=torch.float32)[:, None] * frequencies
    turned = torch.cat((turned, turned), dim=-1)[None]
    return turned.cos() * scaling, turned.sin() * scaling


def test_rotate_is_what_transformers_does():
    states = torch.randn(2, 4, 5, 16)
    cos, sin = angles(5, 16)
    expected, _ = apply_rotary_pos_emb(states, states, cos, sin)
    assert not torch.allclose(expected, states, atol=1e-2)
    torch.testing.assert_close(rotate(states, cos, sin), expected)


@pytest.mark.parametrize("rotary_dim", [16, 4], ids=["full", "partial"])
@pytest.mark.parametrize("scaling", [1.0, 1.37])
def test_unrotate_undoes_rotate(rotary_dim, scaling):
    states = torch.randn(2, 4, 63, 16)
    cos, sin = angles(63, rotary_dim, scaling)
    turned = rotate(states, cos, sin)
    assert not torch.allclose(turned, states, atol=1e-2)
    torch.testing.assert_close(unrotate(turned, cos, sin), states, atol=1e-5, rtol=1e-5)


def test_bfloat16_loses_one_rounding_more_at_most():
    states = torch.randn(1, 2, 100, 16)
    cos, sin = (angle.bfloat16() for angle in angles(100, 16))
    restored = unrotate(rotate(states.bfloat16(), cos, sin), cos, sin)
    assert restored.dtype == torch.bfloat16
    assert float((restored.float() - states).abs().max()) < 0.04  # three roundings of 2^-8 on values up to 4
