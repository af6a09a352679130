"""What runs the SideNet beside the backbone, and what lets its pointer copy from memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ltm.attention import Plugin
from ltm.bank import LayeredBank
from ltm.bank.results import Neighbours
from ltm.compat import Cache
from ltm.methods.attention.longmem.config import LongMemConfig
from ltm.methods.attention.longmem.pointer import Candidates, Pointer
from ltm.methods.attention.longmem.sidenet import LayerCall, SideNet
from ltm.methods.attention.longmem.window_reach import Held, places_within
from ltm.methods.trace import Trace


class SideNetDriver(Plugin):
    """Collects what the SideNet needs while the backbone runs; its output takes the place of the backbone's.

    stop: the SideNet runs as soon as it has what its memory layer needs, and the observer ends the pass there.
    backbone_norm: the backbone's final norm; the backbone's own output then follows the SideNet's as further rows, so
    that one pass of the head, whose matrix is read once, gives the logits of both: [2 * batch, tokens, vocab].
    """

    def __init__(
        self,
        sidenet: SideNet,
        config: LongMemConfig,
        num_layers: int,
        reader: Plugin | None,
        cache: Cache | None,
        observer: Plugin | None = None,
        stop: bool = False,
        backbone_norm: nn.Module | None = None,
    ):
        self.backbone_norm = backbone_norm
        self.sidenet, self.reader, self.cache, self.observer = sidenet, reader, cache, observer
        self.tied_layers = range(0, num_layers, config.reduction_factor)
        self.copied_layers = config.copied_layers(num_layers)
        needed = self.tied_layers[sidenet.memory_layer], self.copied_layers[sidenet.memory_layer]
        self.last_layer = max(needed) if stop else None
        self.entered_layers = sorted({*self.tied_layers, *self.copied_layers})
        self.states: list[Tensor] = []
        self.calls: list[LayerCall] = []
        self.output: Tensor | None = None
        """The SideNet's normalised output [batch, tokens, hidden_size], after the pass."""

    def enter_layer(self, layer: int, hidden: Tensor, args: tuple, kwargs: dict[str, Any]) -> None:
        if layer in self.tied_layers:
            self.states.append(hidden)
        if layer in self.copied_layers:
            self.calls.append((args, {name: value for name, value in kwargs.items() if name != "hidden_states"}))
        if layer == self.last_layer:
            self.sidenet(self.states, self.calls, self.reader, self.cache, self.observer)

    def finish(self, hidden: Tensor) -> Tensor:
        self.output = self.sidenet([*self.states, hidden], self.calls, self.reader, self.cache, self.observer)
        output = self.output.to(hidden.dtype)
        if self.backbone_norm is None:
            return output
        return torch.cat((output, self.backbone_norm.forward(hidden)))  # forward: without the hook that led here


def copy_from_memory(
    pointer: Pointer,
    logits: Tensor,
    hidden: Tensor,
    held: Held,
    past: LayeredBank,
    num_chunks: int,
    window_tokens: int = 0,
    trust: float = 0.0,
    trace: Trace | None = None,
) -> Tensor:
    """Logits [batch, tokens, vocab] with what the pointer copies mixed in, from the best `num_chunks` of the past, and
    the best `window_tokens` of what the window holds; see `Pointer`.

    hidden [batch, tokens, hidden_size]: the SideNet's output.
    """
    scored = logits.shape[1]
    with torch.autocast(logits.device.type, enabled=False):  # cosines near 1 decide: bf16 has none between 0.996 and 1
        queries = pointer.unit_queries(held.keys[:, :, -scored:])
        sources, near, num_within = [], None, 0
        if past:
            near = past.neighbours(pointer.search_queries(queries.detach()), num_chunks, held.recent[:, -scored:])
            candidates = Candidates(near.keys, near.next_ids, near.runs)
            sources.append((pointer.similarity(queries, candidates), near.next_ids, near.runs))
        if window_tokens:
            nearest, followed_by = places_within(pointer, queries, held, window_tokens)
            sources.append((nearest, followed_by, torch.zeros_like(followed_by)))  # the model sees their runs itself
            num_within = followed_by.shape[-1]
        similarity, next_ids, runs = (torch.cat(parts, dim=-1) for parts in zip(*sources, strict=True))
        mixed, copied = pointer.mix(logits, hidden, pointer.weighed(similarity, next_ids, runs, num_within), trust)
    if trace is not None and near is not None:
        _note_copies(trace, past, near, copied.detach())
    return mixed


def _note_copies(trace: Trace, past: LayeredBank, near: Neighbours, copied: Tensor) -> None:
    """What was copied from chunks of the past: copied [batch, tokens, slots], those of `near` first; attention has what
    all of them leave."""
    left = 1 - copied.sum(dim=-1)[:, None, :, None]
    of_chunks = copied[..., : near.next_ids.shape[-1]].unflatten(-1, (near.hits.slots.shape[-1], -1)).sum(-1)[:, None]
    shares = of_chunks.tensor_split(len(past.parts), dim=-1)
    for (part, hits), share in zip(past.by_part(near.hits), shares, strict=True):
        trace.join(part.bank, part.rows, hits.slots, share, left)
