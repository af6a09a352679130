"""The rotation that spreads what is large in a few channels of a vector over all of them, before it is quantised.

Not the rotation of rotary position embeddings (`ltm.attention.positions`): it is the same at every position.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def hadamard(size: int) -> Tensor:
    """The rotation of vectors of `size`: float32 [size, size], orthonormal, symmetric and so its own inverse.

    Sylvester's matrix of the largest power of two n that divides size, over the square root of n, in size / n blocks.
    """
    n = size & -size
    block = torch.ones(1, 1)
    while block.shape[0] < n:
        block = torch.cat((torch.cat((block, block), dim=1), torch.cat((block, -block), dim=1)))
    return torch.block_diag(*[block / n**0.5] * (size // n))


def hadamard_rotate(vectors: Tensor) -> Tensor:
    """Vectors [..., head_dim] to the space that they are quantised in, or back from it; float32, under autocast too.

    >>> hadamard_rotate(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    tensor([1., 0., 1., 0.])
    """
    with torch.autocast(vectors.device.type, enabled=False):
        return vectors.float() @ hadamard(vectors.shape[-1]).to(vectors.device)
