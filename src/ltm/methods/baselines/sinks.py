"""The first few tokens and the most recent ones (Xiao et al., 2023, "Efficient Streaming Language Models with Attention
Sinks").

In the form of its sliding window with re-computation: when a window is full, what is kept is encoded anew at positions
from 0, so that it also works with learned positions and no key was computed with a context that is gone. StreamingLLM
proper keeps the old keys, which is cheaper and slightly worse.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltm.configs import WindowFields, stride_of
from ltm.methods.method import Card
from ltm.methods.registry import register
from ltm.methods.stream_reader import StreamReader
from ltm.streams import Stream


@dataclass(frozen=True)
class SinksConfig(WindowFields):
    """The first tokens and the most recent ones."""

    num_sinks: int = 4
    """First tokens of the text that always stay; local_window counts them too."""

    LEAST = {"num_sinks": 0}

    @property
    def room(self) -> int:
        return self.local_window - self.num_sinks

    def problems(self) -> list[str]:
        if self.room > 0:
            return super().problems()
        return [f"num_sinks={self.num_sinks}; use fewer than local_window={self.local_window}"]

    @classmethod
    def with_window(cls, window: int, stride: int | None = None) -> dict[str, int]:
        return super().with_window(window, None if stride is None else min(stride, window - cls.num_sinks))

    @classmethod
    def tiny(cls) -> SinksConfig:
        return cls(local_window=12, num_sinks=2)


@register("sinks")
class Sinks(StreamReader):
    """The backbone with the first few tokens and the most recent ones."""

    config_class = SinksConfig
    card = Card(
        "Xiao et al., 2023, arXiv:2309.17453",
        "keeping the first tokens keeps a sliding window fluent",
        "kept tokens are encoded anew instead of carried over",
        needs_training=False,
    )

    def new_stream(self) -> Stream:
        config = self.method_config
        stride = stride_of(config.local_window - config.num_sinks, config.stride)
        return Stream(config.local_window, stride, config.num_sinks)
