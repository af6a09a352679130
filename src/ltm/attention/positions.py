"""Positions of keys and queries: taking rotary embedding off, and putting it on.

Banks store keys without positions: the only form from which every published placement follows. A rotary model
hands the attention function keys that are already rotated, together with the cosines and sines it used, so the
rotation is undone exactly where it was done. Rotation follows the half-split convention of Llama, Mistral, Qwen,
Gemma, Phi-3 and GPT-NeoX: only the first `rotary_dim` channels turn (partial rotary embedding), and cosines and
sines may carry an attention scaling (YaRN, LongRoPE), which is divided out again.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embedding (Su et al., 2021, eq. 34, half-split layout).

    states: [batch, heads, tokens, head_dim]; cos and sin: [batch or 1, tokens, rotary_dim], rotary_dim <= head_dim.
    Returns a tensor like `states`.

    >>> states, angle = torch.randn(1, 2, 3, 8), torch.randn(1, 3, 4).repeat(1, 1, 2)
    >>> turned = rotate(states, angle.cos(), angle.sin())
    >>> bool(torch.allclose(unrotate(turned, angle.cos(), angle.sin()), states, atol=1e-6))
    True
    """
    return _turn(states, cos, sin)


def unrotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Undo `rotate` with the same cosines and sines: the position-free keys or queries, in the same dtype.

    Computed in float32 at least, so that a bfloat16 key is rounded only once more.
    """
    cos, sin = cos.float(), sin.float()
    # 1 for plain rotary embedding; attention scaling squared for scaled kinds; and never quite 1 in bfloat16
    length = cos**2 + sin**2
    return _turn(states, cos / length, -sin / length)


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    dtype = torch.promote_types(states.dtype, torch.float32)
    cos, sin = cos.to(dtype).unsqueeze(1), sin.to(dtype).unsqueeze(1)  # [batch, 1, tokens, rotary_dim]
    rotary_dim = cos.shape[-1]
    turning, passing = states[..., :rotary_dim].to(dtype), states[..., rotary_dim:]
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned.to(states.dtype), passing), dim=-1)
