"""Mixers: what runs in the place of a layer's attention, or beside it, with a state that goes from token to token.

A mixer is attached for the length of a call, through the registered attention function and a hook on the attention
module: no forward is patched or copied. Where attention is not wanted its function returns zeros, so that no score is
computed; queries, keys and values are still projected, and held in the cache, since transformers counts tokens there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ltm.attention import LocalView, Plugin

State = Mapping[str, Tensor]
"""Tensors by name, [batch, ...] each."""


class Mixer(nn.Module):
    """A recurrent layer in one attention's place (Titans, Based, MoM) or beside it (Hymba).

    A method supplies `initial` and `forward`, and `join` where attention is kept.

    >>> class Mean(Mixer): ...  # doctest: +SKIP
    """

    keeps_attention: ClassVar[bool] = False
    """Whether the layer's own attention runs as well; `join` is then given what came of it."""

    def initial(self) -> dict[str, Tensor]:
        """The state of one row before its first token."""
        raise NotImplementedError

    def forward(self, hidden: Tensor, state: State, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs [batch, tokens, hidden_size] of what the layer's attention is given, and the state after the last
        token. mask: bool [batch, tokens]; where it is False, padding, the state must stay as it was."""
        raise NotImplementedError

    def join(self, attended: Tensor, mixed: Tensor) -> Tensor:
        """What goes on from attention's output and the mixer's, both [batch, tokens, hidden_size]."""
        return mixed


class Mixing(Plugin):
    """Mixers at work for one call. states: "LAYER.NAME" to tensors [batch, ...], replaced as layers run; mask: bool
    [batch, tokens] of the call's tokens."""

    def __init__(self, mixers: Mapping[int, Mixer], states: State, mask: Tensor):
        self.mixers, self.states, self.mask = mixers, dict(states), mask
        self.mixed_layers = tuple(mixers)
        self.local_layers = tuple(layer for layer, mixer in mixers.items() if not mixer.keeps_attention)

    def attend_local(self, layer: int, local: LocalView) -> Tensor:
        return torch.zeros_like(local.query)

    def mix(self, layer: int, hidden: Tensor, attended: Tensor) -> Tensor:
        mixer = self.mixers[layer]
        before = {name: self.states[f"{layer}.{name}"] for name in mixer.initial()}
        mixed, after = mixer(hidden, before, self.mask)
        self.states.update({f"{layer}.{name}": tensor for name, tensor in after.items()})
        return mixer.join(attended, mixed)


def initial_states(mixers: Mapping[int, Mixer]) -> dict[str, Tensor]:
    """The state of one row in all mixers before its first token, by "LAYER.NAME"."""
    return {f"{layer}.{name}": tensor for layer, mixer in mixers.items() for name, tensor in mixer.initial().items()}
