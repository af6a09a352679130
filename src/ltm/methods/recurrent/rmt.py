"""RMT: memory tokens before and after each segment; what the backbone makes of those after it comes before the next.

    [memory_k, segment_k, memory_k] -> hidden states;  memory_{k+1} = the hidden states of the tokens after the segment

(Bulatov et al., 2022, arXiv:2207.06881.) Tokens before a segment are read, those after it are written; nothing else
changes in the backbone. What comes out after its final norm is what goes in as embeddings. Of the paper's code
(booydar/LM-RMT, a Transformer-XL) and the authors' later one for pretrained decoders
(booydar/recurrent-memory-transformer, `MemoryCell`) this follows the later one:

- Memory tokens attend to each other in order, under the backbone's causal mask (paper: each block sees all of itself).
- They start as different random vectors, as spread out as embeddings (paper: one, repeated); 'embeddings' is ours.
- Segments are cut from the left, and memory takes the backbone's positions.

Ours: the backbone stays frozen, and memory tokens are trained alone, or with LoRA where `lora_rank` asks for it (paper:
the whole model; later script: LoRA of rank 8 with alpha 32). Memory tokens alone are met only where a row begins: train
on documents of `backprop_segments` segments then. A row whose segment is empty keeps its memory. The authors'
curriculum of more and more segments is left to the caller, by the trainer's `backprop_segments`. (`MemoryCell`'s own
limit, k2, detaches a local name and truncates nothing.)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ltm.backbone import Backbone
from ltm.errors import LtmError
from ltm.methods.parametric.lora import Lora, LoraConfig
from ltm.methods.recurrent.base import Recurrent, SegmentFields, States, put_before
from ltm.methods.registry import register
from ltm.registry import Card
from ltm.streams import Window

SAMPLE = 1024
"""Tokens of the vocabulary whose embeddings say how spread out they are."""


@dataclass(frozen=True)
class RmtConfig(SegmentFields):
    """Bulatov et al., 2022, "Recurrent Memory Transformer" (arXiv:2207.06881)."""

    memory_tokens: int = 10
    """Vectors carried from segment to segment (paper's best on WikiText-103: 10; later code on WikiText-2: 2)."""
    local_window: int = 150
    """Tokens of a segment, memory not counted (paper: 150 on WikiText-103)."""
    memory_start: Literal["random", "embeddings"] = "random"
    """What memory tokens are before training: as spread out as the embeddings, or embeddings of the vocabulary."""
    lora_rank: int = 0
    """Rank of LoRA on all matrices of the layers, trained with the memory tokens (later script: 8); 0: none."""
    seed: int = 0
    """Of what is random before training."""

    LEAST: ClassVar[Mapping[str, float]] = {"memory_tokens": 1, "lora_rank": 0}

    @classmethod
    def tiny(cls) -> RmtConfig:
        return cls(memory_tokens=3, local_window=8)


@register("rmt")
class Rmt(Recurrent):
    """See the module's text and `RmtConfig`.

    >>> model = load_method(load_backbone("smollm2-135m"), "rmt/")  # what ltm train wrote  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = RmtConfig
    card = Card(
        "Bulatov et al., 2022, arXiv:2207.06881",
        "language modelling with a smaller memory than Transformer-XL; copying and retrieval over many segments",
        "frozen backbone; memory tokens are trained, with LoRA if asked for, under a causal mask",
        needs_training=True,
    )

    def __init__(self, backbone: Backbone, config: RmtConfig):
        super().__init__(backbone, config)
        self.memory_tokens = nn.Parameter(first_memory(backbone, config))
        rank = config.lora_rank
        self.lora = Lora(backbone, LoraConfig(rank=rank, alpha=4.0 * rank, seed=config.seed)) if rank else None

    def initial(self) -> dict[str, Tensor]:
        return {"memory": self.memory_tokens}

    def prefix(self, state: States) -> Tensor:
        return state["memory"]

    def step(self, state: States, ids: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One pass gives both: what stands after the segment changes nothing in it."""
        hidden, after = self._segment(state, ids, mask)
        return self.backbone.view.logits(hidden), after

    def encode(self, window: Window) -> Tensor:
        with self._adapted():
            return super().encode(window)

    def update(self, state: States, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return self._segment(state, ids, mask)[1]

    def _segment(self, state: States, ids: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Hidden states [batch, tokens, hidden_size] of a segment, and the memory after it."""
        order = torch.argsort(mask.to(torch.uint8), dim=1, stable=True)  # padding first, so that none stands inside
        embedded = self.backbone.view.embeddings(ids.gather(1, order))
        memory = state["memory"].to(embedded.dtype)  # [batch, memory tokens, hidden_size]
        count, tokens = memory.shape[1], ids.shape[1]
        embedded, whole = put_before(memory, embedded, mask.gather(1, order))
        whole = torch.cat((whole, whole.new_ones(len(ids), count)), dim=1)
        with self._adapted():
            hidden = self.backbone.view.hidden(torch.cat((embedded, memory), dim=1), whole)
        segment = hidden[:, count : count + tokens]  # in packed order; columns of padding mean nothing
        back = order.argsort(dim=1)[..., None].expand_as(segment)
        return segment.gather(1, back), {"memory": hidden[:, -count:].to(state["memory"].dtype)}

    def _adapted(self) -> AbstractContextManager[None]:
        """The backbone as it was trained, in the block."""
        return nullcontext() if self.lora is None else self.lora.installed([self.lora.start])

    def trained_state(self) -> dict[str, Tensor]:
        adapted = {} if self.lora is None else self.lora.trained_state()
        return {"memory_tokens": self.memory_tokens.detach(), **adapted}

    def load_trained_state(self, state: dict[str, Tensor], source: str) -> None:
        held = state.get("memory_tokens")
        if held is None or held.shape != self.memory_tokens.shape or (self.lora is None and len(state) > 1):
            raise LtmError(f"{source} does not fit its own config: memory_tokens; train again")
        self.memory_tokens.data.copy_(held)
        if self.lora is not None:
            self.lora.load_trained_state({n: t for n, t in state.items() if n != "memory_tokens"}, source)


@torch.no_grad()
def first_memory(backbone: Backbone, config: RmtConfig) -> Tensor:
    """Memory tokens before training, [memory tokens, hidden_size], float32."""
    view, count = backbone.view, config.memory_tokens
    chosen = torch.linspace(0, view.vocab_size - 1, max(count, SAMPLE), device=backbone.device).long()
    known = view.embeddings(chosen).float()  # as the backbone scales them
    if known.shape[1] != view.hidden_size:
        raise LtmError(
            f"{backbone.name} has embeddings of {known.shape[1]} channels and hidden states of "
            f"{view.hidden_size}; what was written cannot be read: use another backbone"
        )
    if config.memory_start == "embeddings":
        return known[:: len(known) // count][:count].clone()
    drawn = torch.randn(count, view.hidden_size, generator=torch.Generator().manual_seed(config.seed))
    return drawn.to(backbone.device) * known.std()
