"""What runs the SideNet beside the backbone, and what lets its pointer copy from memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ltm.attention import Plugin
from ltm.bank import LayeredBank
from ltm.compat import Cache
from ltm.methods.attention.longmem.config import LongMemConfig
from ltm.methods.attention.longmem.pointer import LONGEST_RUN, Candidates, Pointer
from ltm.methods.attention.longmem.sidenet import LayerCall, SideNet
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
    keys: Tensor,
    recent: Tensor,
    past: LayeredBank,
    num_chunks: int,
    trust: float = 0.0,
    trace: Trace | None = None,
) -> Tensor:
    """Logits [batch, tokens, vocab] with what the pointer copies mixed in, from the best `num_chunks` of the past;
    see `Pointer`.

    hidden [batch, tokens, hidden_size]: the SideNet's output; keys [batch, kv_heads, tokens, head_dim]: the present
    tokens' own, position-free; recent [batch, tokens, LONGEST_RUN]: they and those before, see `recent_ids`.
    """
    with torch.autocast(logits.device.type, enabled=False):  # cosines near 1 decide: bf16 has none between 0.996 and 1
        queries = pointer.unit_queries(keys)
        search = pointer.search_queries(queries.detach())
        near = past.neighbours(search, num_chunks, recent)
        candidates = Candidates(near.keys, near.next_ids, near.runs)
        copies = pointer.copies(queries, candidates)
        mixed, copied = pointer.mix(logits, hidden, copies, candidates, trust)
    if trace is not None:
        num_parts = len(past.parts)
        of_chunks = copied.detach().unflatten(-1, (num_parts * num_chunks, -1)).sum(-1)[:, None]
        left = 1 - of_chunks.sum(dim=-1, keepdim=True)
        shares = of_chunks.tensor_split(num_parts, dim=-1)
        for (part, hits), share in zip(past.by_part(near.hits), shares, strict=True):
            trace.join(part.bank, part.rows, hits.slots, share, left)
    return mixed


def recent_ids(ids: Tensor, mask: Tensor, before: Sequence[Tensor] | None, keep: int) -> Tensor:
    """The last `keep` tokens (0: all) of ids [batch, tokens], each with those before it: int64 [batch, keep,
    LONGEST_RUN], the latest first, -1 where there is none.

    mask: bool, of these columns; False = padding. before: each row's tokens that the window held already.
    """
    none = ids.new_full((LONGEST_RUN - 1,), -1)
    recent = ids.new_full((*ids.shape, LONGEST_RUN), -1)
    for row, valid in enumerate(mask):
        if not bool(valid.any()):
            continue
        past = none if before is None else torch.cat((none, before[row]))[-len(none) :]
        recent[row, valid] = torch.cat((past, ids[row, valid])).unfold(0, LONGEST_RUN, 1).flip(-1)
    return recent[:, -keep:]
