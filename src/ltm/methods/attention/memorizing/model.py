"""The Memorizing Transformer: one backbone layer attends locally, and to its own nearest keys of the past.

    o = (1 - g) * softmax(q k_local) v_local + g * softmax(q k_memory) v_memory,   g = sigmoid(b), one b a head

(Wu et al., 2022, section 3.1; q are rotated where they meet local keys.) Each query token of each head retrieves the
`top_k` tokens whose keys have the largest inner product with it. The layers above go on with the mixed output. The
backbone stays frozen and only the gate is trained: its gradient flows through the layers above, none below runs with
one. How tokens are remembered is in `ltm.methods.attention.base`.

What differs from the paper and its released code (google-research/meliad):

- The paper trains every weight, from scratch or from a model without memory; here the gate has to do alone. It starts
  small (`gate_start`), since the layers above never saw remembered values; released, it starts at a half.
- The paper normalises keys and queries, so that keys of older weights are no larger or smaller than new ones
  (lucidrains/memorizing-transformers-pytorch too, with a learned temperature). Frozen weights never age, and normalised
  keys would want a learned scale (released: one a head), so keys stay as the backbone makes them.
- No position in memory: as in the paper, which drops its T5 bias there. Rotary keys are stored un-rotated.
- A segment is encoded on its own; the paper's sees a Transformer-XL cache of the segment before.
- Search is exact (paper: approximate), and with too few entries the rest is masked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ltm.attention import Plugin, View
from ltm.backbone import Backbone
from ltm.bank import LayeredBank
from ltm.bank.storage import STORAGE_OPTIONS
from ltm.methods import Card, register
from ltm.methods.attention.base import BankReader, Scored
from ltm.methods.attention.memorizing.config import MemorizingConfig
from ltm.methods.attention.memory_reader import MemoryReader
from ltm.streams import Window


class MemoryGate(nn.Module):
    """One number a head, whose sigmoid is memory's share, float32 until told otherwise. start: that share at first."""

    def __init__(self, num_heads: int, start: float):
        super().__init__()
        self.bias = nn.Parameter(torch.full((num_heads,), math.log(start / (1 - start))))

    def local_share(self) -> Tensor:
        """1 - sigmoid(bias): each head's weight of the local side, [heads]."""
        return torch.sigmoid(-self.bias)


class EmptyMemory(Plugin):
    """A view of nothing: the output stays local, but the gate takes part, with a gradient of zero.

    Without it a first segment's loss would depend on nothing that is trained, and its backward pass would fail.
    """

    def __init__(self, layer: int, gate: Tensor):
        self.viewed_layers, self.gate = (layer,), gate

    def views(self, layer: int, query: Tensor) -> Sequence[View]:
        nothing = query[:, :, :0]  # [batch, heads, 0, head_dim]
        return (View(nothing, nothing, gate=self.gate),)


@register("memorizing")
class Memorizing(BankReader):
    """See the module's text and `MemorizingConfig`.

    >>> backbone = load_backbone("smollm2-135m")  # doctest: +SKIP
    >>> model = Memorizing(backbone, MemorizingConfig())  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = MemorizingConfig
    bank_options = ("memory_layer", "segment_size", *STORAGE_OPTIONS)
    card = Card(
        "Wu et al., 2022, arXiv:2203.08913",
        "long-text perplexity: a kNN memory in one layer is worth a much larger model",
        "frozen pretrained backbone, only the gate is trained; keys not normalised, exact search",
        needs_training=True,
    )

    def __init__(self, backbone: Backbone, config: MemorizingConfig):
        layer = config.resolved_memory_layer(backbone.view.num_layers)
        super().__init__(backbone, config, memory_layer=layer, chunk_size=1)
        self.gate = MemoryGate(backbone.view.num_heads, config.gate_start).to(backbone.device)

    def score(self, window: Window) -> Scored:
        return self.run((self._reader(self.past_of(window)),), window)

    def _reader(self, past: LayeredBank) -> Plugin:
        gate = self.gate.local_share()
        if not past:
            return EmptyMemory(self.memory_layer, gate)
        return MemoryReader(self.memory_layer, past, self.method_config.top_k, gate, self.tracing)

    @property
    def trained_module(self) -> nn.Module:
        return self.gate

    def local_share(self) -> Tensor:
        return self.gate.local_share()
