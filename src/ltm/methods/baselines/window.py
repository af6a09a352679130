"""The local window: the backbone with the most recent tokens alone. What has left it is gone."""

from __future__ import annotations

from dataclasses import dataclass

from ltm.configs import WindowFields, stride_of
from ltm.methods.method import Card
from ltm.methods.registry import register
from ltm.methods.stream_reader import StreamReader
from ltm.streams import Stream


@dataclass(frozen=True)
class WindowConfig(WindowFields):
    """The most recent tokens only."""

    @classmethod
    def tiny(cls) -> WindowConfig:
        return cls(local_window=12)


@register("window")
class LocalWindow(StreamReader):
    """The backbone with the most recent tokens only."""

    config_class = WindowConfig
    card = Card("", "what the backbone does without a memory", "", needs_training=False)

    def new_stream(self) -> Stream:
        config = self.method_config
        return Stream(config.local_window, stride_of(config.local_window, config.stride))
