"""NewMethod: one sentence of what it remembers, and how what it remembers is used.

A formula or a few lines of what happens at reading and at scoring. (Authors, year, arXiv number, section.)

What differs from the paper and its released code:

- As it stands: one layer of the frozen backbone also attends to the `top_k` remembered tokens whose keys have the
  largest inner product with each query, in one softmax with its window.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ltm.backbone import Backbone
from ltm.bank.storage import STORAGE_OPTIONS
from ltm.configs import MOST_RETRIEVED, BankFields, RecentFields
from ltm.methods.attention.base import BankReader, Scored
from ltm.methods.attention.memory_reader import MemoryReader
from ltm.methods.registry import register
from ltm.registry import Card
from ltm.streams import Window


@dataclass(frozen=True)
class NewMethodConfig(RecentFields, BankFields):
    """The paper's name. Raises ConfigError with every problem of the values together."""

    top_k: int = 32
    """Tokens that each query token of each head gets from memory (paper: ...)."""

    LEAST = {"top_k": 1}
    MOST = {"top_k": MOST_RETRIEVED}

    @classmethod
    def tiny(cls) -> NewMethodConfig:
        """Small enough that a few dozen tokens fill windows and memory, for the contract tests."""
        return cls(top_k=5, memory_size=40, segment_size=8, local_window=12)


@register("new_method")
class NewMethod(BankReader):
    """See the module's text and `NewMethodConfig`.

    >>> model = ltm.attach("new_method", load_backbone("smollm2-135m"))  # doctest: +SKIP
    >>> model.read(past); model.generate(present, max_new_tokens=20)  # doctest: +SKIP
    """

    config_class = NewMethodConfig
    bank_options = ("segment_size", *STORAGE_OPTIONS)
    card = Card("Authors, year, arXiv number", "what it promises", "what is otherwise here")

    def __init__(self, backbone: Backbone, config: NewMethodConfig):
        layer = max(3 * backbone.view.num_layers // 4 - 1, 0)
        super().__init__(backbone, config, memory_layer=layer, chunk_size=1)
        self.trained = nn.Module()  # nothing yet; what is trained beside the backbone goes in here

    def score(self, window: Window) -> Scored:
        """One window; the memory layer also sees what it retrieves."""
        past = self.past_of(window)
        reader = MemoryReader(self.memory_layer, past, self.method_config.top_k, self.local_share(), self.tracing)
        return self.run([reader] if past else [], window)

    @property
    def trained_module(self) -> nn.Module:
        return self.trained

    def local_share(self) -> Tensor | None:
        return None
