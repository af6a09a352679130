"""The whole context: what the backbone does with everything in sight, as far as its positions reach."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ltm.configs import Config
from ltm.errors import LtmError
from ltm.methods.method import Card
from ltm.methods.registry import register
from ltm.methods.stream_reader import StreamReader
from ltm.streams import Stream, Window


@dataclass(frozen=True)
class FullConfig(Config):
    """The whole context has no choices."""

    @classmethod
    def tiny(cls) -> FullConfig:
        return cls()


@register("full")
class FullContext(StreamReader):
    """The backbone with everything in its context, as far as its positions reach."""

    config_class = FullConfig
    card = Card("", "upper bound on what a memory can give, where it fits", "", needs_training=False)

    @property
    def max_stream_tokens(self) -> int | None:
        return self.backbone.view.max_positions

    def new_stream(self) -> Stream:
        return Stream(window=None)

    def encode(self, window: Window) -> Tensor:
        limit, length = self.max_stream_tokens, int(window.mask.sum(dim=1).max())
        if limit is not None and length > limit:
            raise LtmError(f"{length} tokens do not fit the backbone's {limit} positions; use a method with a memory")
        return super().encode(window)
