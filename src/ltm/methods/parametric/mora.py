"""MoRA: a square matrix instead of two thin ones, so that what is learned can have a high rank.

    y = W x + decompress(M compress(x)),   M [r^, r^],   r^ = sqrt((in + out) * rank)

(Jiang et al., 2024, arXiv:2405.12130), as many numbers as LoRA of that rank. `compress` cuts x into groups of r^
channels, the last one filled up from x's start; `decompress` repeats or cuts what comes out until it has `out`
channels. 'rotate' (equation 9; the released code's type 6) turns group g as rotary embedding turns position g and gives
every group to M, which so becomes a block of a large matrix at every place; 'share' (equation 6; type 1) adds the
groups up first.

What differs from the paper and its released code (kongds/MoRA, of which this follows the arithmetic):

- The matrix is learned while reading, one for each memory row, beside a frozen backbone: a few steps at 1e-3 on each
  segment (1e-3 twice beat 3e-4 four times on a book: -0.084 and -0.075 nats on what follows; the paper fine-tunes, at
  3e-4, over epochs).
- Groups are filled up from x's start as the code does it; the paper's text pads with zeros.
- Angles are computed for the width at hand; the released layer keeps those of its first adapter.
- ReMoRA (merge, start anew) is left out: a memory's rows are never merged into the backbone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ltm.methods.parametric.base import Parametric, ParametricFields, widths
from ltm.methods.registry import register
from ltm.registry import Card

ROTARY_BASE = 10000
"""Released: angles of group g, channel pair i: g * 10000^(-2i / r^)."""


@dataclass(frozen=True)
class MoraConfig(ParametricFields):
    """Jiang et al., 2024, "MoRA: High-Rank Updating for Parameter-Efficient Fine-Tuning" (arXiv:2405.12130)."""

    rank: int = 8
    """Of the LoRA with as many numbers (paper: 8 for instructions and mathematics, 128 and 256 for new facts)."""
    groups: Literal["rotate", "share"] = "rotate"
    """What becomes of groups of channels: turned apart (paper: for small ranks) or added up (paper: for large)."""
    read_rate: float = 1e-3
    """Learning rate of AdamW while reading (paper, fine-tuning over epochs: 3e-4)."""

    LEAST: ClassVar[Mapping[str, float]] = {"rank": 1}

    @classmethod
    def tiny(cls) -> MoraConfig:
        return cls(rank=2, **cls.tiny_reading())


def matrix_size(inputs: int, outputs: int, rank: int, even: bool = True) -> int:
    """r^, which gives M as many numbers as LoRA's two matrices; even where channels are turned in pairs.

    >>> matrix_size(4096, 4096, 8)
    256
    """
    size = int(math.sqrt((inputs + outputs) * rank) + 0.5)
    return max(size // 2 * 2, 2) if even else max(size, 1)


class SquareUpdate(nn.Module):
    """A matrix of the backbone and the square one beside it: inputs [..., in], outputs [..., out]."""

    def __init__(self, base: nn.Module, rank: int, rotate: bool):
        super().__init__()
        inputs, self.outputs = widths(base)
        size = matrix_size(inputs, self.outputs, rank, even=rotate)
        self.base, self.rotate = base, rotate
        self.matrix = nn.Parameter(torch.zeros(size, size))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + self.update(inputs).to(inputs.dtype)

    def update(self, inputs: Tensor) -> Tensor:
        """decompress(M compress(x)), [..., out] in the matrix's dtype or the inputs'."""
        matrix = self.matrix.to(torch.promote_types(self.matrix.dtype, inputs.dtype))
        groups = grouped(inputs.to(matrix.dtype), len(matrix))  # [..., groups, r^]
        groups = turned(groups) if self.rotate else groups.sum(dim=-2, keepdim=True)
        channels = (groups @ matrix.T).flatten(-2)  # [..., groups * r^]
        repeats = -(-self.outputs // channels.shape[-1])
        return torch.cat([channels] * repeats, dim=-1)[..., : self.outputs]


def grouped(inputs: Tensor, size: int) -> Tensor:
    """Channels [..., n] as groups [..., ceil(n / size), size], filled up from the first channels on."""
    channels = inputs.shape[-1]
    place = torch.arange(-(-channels // size) * size, device=inputs.device) % channels
    return inputs[..., place].unflatten(-1, (-1, size))


def turned(groups: Tensor) -> Tensor:
    """Groups [..., groups, size], group g turned as rotary embedding turns position g (half by half)."""
    count, size = groups.shape[-2:]
    pairs = torch.arange(0, size, 2, dtype=torch.float64, device=groups.device)
    angles = torch.outer(torch.arange(count, device=groups.device).double(), ROTARY_BASE ** (-pairs / size))
    cos, sin = angles.cos().to(groups.dtype), angles.sin().to(groups.dtype)  # [groups, size / 2]
    first, second = groups.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@register("mora")
class Mora(Parametric):
    """See the module's text and `MoraConfig`.

    >>> model = Mora(load_backbone("smollm2-135m"), MoraConfig())  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = MoraConfig
    card = Card(
        "Jiang et al., 2024, arXiv:2405.12130",
        "memorising and continual pretraining: a high-rank update learns more than LoRA of as many numbers",
        "learned while reading, one matrix a memory row; no merging (ReMoRA)",
        needs_training=False,
    )

    def wrap(self, module: nn.Module) -> SquareUpdate:
        return SquareUpdate(module, self.method_config.rank, self.method_config.groups == "rotate")

    def delta(self, wrapped: nn.Module) -> Tensor:
        assert isinstance(wrapped, SquareUpdate)
        inputs, _ = widths(wrapped.base)
        change = wrapped.update(torch.eye(inputs, dtype=wrapped.matrix.dtype, device=wrapped.matrix.device))
        return change if isinstance(wrapped.base, Conv1D) else change.T
