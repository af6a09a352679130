"""MoRA's update of one token, in loops and float64, from the paper's equations 6 and 9."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def naive_mora(inputs: Tensor, matrix: Tensor, outputs: int, rotate: bool) -> Tensor:
    """What is added to W x: inputs float64 [in], matrix float64 [size, size]; [outputs]."""
    size = len(matrix)
    count = math.ceil(len(inputs) / size)
    filled = [inputs[place % len(inputs)] for place in range(count * size)]
    groups = [filled[group * size : (group + 1) * size] for group in range(count)]
    if rotate:
        made = [_times(matrix, _turned(group, number)) for number, group in enumerate(groups)]
        channels = [channel for group in made for channel in group]
    else:
        channels = _times(matrix, [sum(group[place] for group in groups) for place in range(size)])
    return torch.stack([channels[place % len(channels)] for place in range(outputs)])


def naive_size(inputs: int, outputs: int, rank: int, rotate: bool) -> int:
    """The largest matrix that rounds to as many numbers as LoRA's (in + out) * rank; even where it is turned."""
    size = round(math.sqrt((inputs + outputs) * rank))
    return size - size % 2 if rotate else size


def _turned(group: list[Tensor], number: int) -> list[Tensor]:
    half, size = len(group) // 2, len(group)
    turned = list(group)
    for pair in range(half):
        angle = number * 10000 ** (-2 * pair / size)
        one, other = group[pair], group[pair + half]
        turned[pair] = one * math.cos(angle) - other * math.sin(angle)
        turned[pair + half] = other * math.cos(angle) + one * math.sin(angle)
    return turned


def _times(matrix: Tensor, vector: list[Tensor]) -> list[Tensor]:
    return [sum(matrix[i, j] * vector[j] for j in range(len(vector))) for i in range(len(matrix))]
