"""Modules that stand in the place of the backbone's for the length of a block, with weights that differ by row.

A method wraps one module without a thought of rows or memories: an ordinary module with parameters of its own. A
`StandIn` runs it with whatever weights a memory row holds. The model itself stays as it is: outside the block its
modules are back, and inside the stand-in shows the parameters of the module it stands for, so that names and hashes of
the backbone's weights are the same all the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ltm.backbone.turns import Turn, lock_of, uncompiled

Tensors = Mapping[str, Tensor]


class SharedWeights(NamedTuple):
    """Batch rows (int64 [rows]; None: all) that have the same weights."""

    rows: Tensor | None
    weights: Tensors


class StandIn(nn.Module):
    """One module of the backbone with a wrapped one in its place.

    name: the module's in the model; wrapped: what a method made of it. own: the wrapped module's parameters that are
    not the backbone's, by name in the model; what they hold at first is `start`.
    """

    base: nn.Module
    wrapped: nn.Module

    def __init__(self, name: str, base: nn.Module, wrapped: nn.Module):
        super().__init__()
        object.__setattr__(self, "base", base)  # not ours to register
        object.__setattr__(self, "wrapped", wrapped)
        self._parameters, self._buffers, self._modules = base._parameters, base._buffers, base._modules
        self.name = name
        theirs = {id(parameter) for parameter in base.parameters()}
        self.own: dict[str, tuple[nn.Module, str]] = {}
        self.start: dict[str, Tensor] = {}
        for path, module in wrapped.named_modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in theirs:
                    named = ".".join(part for part in (name, path, leaf) if part)
                    self.own[named], self.start[named] = (module, leaf), parameter.detach()
        self.groups: Sequence[SharedWeights] = ()
        self.turn: Turn | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base, name)

    def hold(self, weights: Tensors) -> nn.Module:
        """The wrapped module with these weights, [parameter's shape] each; a gradient reaches them."""
        for name, (module, leaf) in self.own.items():
            module._parameters[leaf] = weights[name]  # type: ignore[assignment]  # any tensor will do
        return self.wrapped

    def forward(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """inputs: [batch, tokens, width], or [batch * tokens, width] as OPT hands them on."""
        if self.turn is None or not self.turn.is_mine:
            return self.base(inputs, *args, **kwargs)
        if len(self.groups) == 1:
            return self.hold(self.groups[0].weights)(inputs, *args, **kwargs)
        places = [group.rows for group in self.groups if group.rows is not None]
        by_row = inputs.unflatten(0, (sum(map(len, places)), -1))
        outputs = []
        for rows, group in zip(places, self.groups, strict=True):
            output = self.hold(group.weights)(by_row[rows].flatten(0, 1), *args, **kwargs)
            outputs.append(output.unflatten(0, (len(rows), -1)))
        return torch.cat(outputs)[torch.cat(places).argsort()].flatten(0, 1)


@contextmanager
def standing_in(model: nn.Module, stand_ins: Sequence[StandIn], rows: Sequence[Tensors]) -> Iterator[None]:
    """Run the model with stand-ins in their places inside the block; it is bit for bit what it was afterwards.

    rows: weights of each batch row; rows that share a dict are run together. For the thread that opens the block alone;
    others that open one on the same model wait.

    >>> with standing_in(backbone.model, stand_ins, [weights]): backbone.model(ids)  # doctest: +SKIP
    """
    groups, turn = group_rows(rows, next(model.parameters()).device), Turn()
    with lock_of(model), uncompiled():
        places = [model.get_submodule(stand_in.name.rpartition(".")[0])._modules for stand_in in stand_ins]
        leaves = [stand_in.name.rpartition(".")[2] for stand_in in stand_ins]
        before = [(place[leaf], s.groups, s.turn) for place, leaf, s in zip(places, leaves, stand_ins, strict=True)]
        try:
            for place, leaf, stand_in in zip(places, leaves, stand_ins, strict=True):
                place[leaf], stand_in.groups, stand_in.turn = stand_in, groups, turn
            yield
        finally:
            for place, leaf, stand_in, old in zip(places, leaves, stand_ins, before, strict=True):
                place[leaf], stand_in.groups, stand_in.turn = old


def group_rows(rows: Sequence[Tensors], device: torch.device) -> list[SharedWeights]:
    """Batch rows by the weights they share, in order of their first row."""
    numbers: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        numbers.setdefault(id(row), []).append(number)
    if len(numbers) == 1:
        return [SharedWeights(None, rows[0])]
    return [SharedWeights(torch.tensor(own, device=device), rows[own[0]]) for own in numbers.values()]
