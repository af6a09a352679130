"""The baselines that every method is measured against: the whole context, the local window, sinks and the window.

All three are the backbone alone. What they read stays as tokens in a stream of windows (`ltm.streams.Stream`): `full`
never lets go, `window` keeps the most recent tokens, `sinks` keeps the first few as well (Xiao et al., 2023, "Efficient
Streaming Language Models with Attention Sinks", in the form of its sliding window with re-computation: when a window
is full, what is kept is encoded anew at positions from 0, so that it also works with learned positions and no key was
computed with a context that is gone; StreamingLLM proper keeps the old keys, which is cheaper and slightly worse).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ltm.configs import Config, WindowFields, stride_of
from ltm.errors import BankMismatchError, LtmError
from ltm.memory import Memory
from ltm.methods.method import Card
from ltm.methods.reader import Reader
from ltm.methods.registry import register
from ltm.streams import Past, Stream, StreamMemory, Window


@dataclass(frozen=True)
class FullConfig(Config):
    """The whole context has no choices."""

    @classmethod
    def tiny(cls) -> FullConfig:
        return cls()


@dataclass(frozen=True)
class WindowConfig(WindowFields):
    """The most recent tokens only."""

    @classmethod
    def tiny(cls) -> WindowConfig:
        return cls(local_window=12)


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


class StreamReader(Reader):
    """Base of readers whose memory is a stream: each stream that starts goes on from where it stands."""

    memory_class: ClassVar[type[Memory]] = StreamMemory

    def new_memory(self, rows: int = 0) -> StreamMemory:
        return StreamMemory(self.new_stream(), self.backbone.fingerprint, rows)

    def check_memory(self, memory: Any) -> None:
        self.check_unchanged(memory)
        if memory.past.shape != (shape := self.new_stream().shape):
            raise BankMismatchError(f"this memory has a window of {memory.past.shape}, the model one of {shape}")

    def check_unchanged(self, memory: Any) -> None:
        """What was read follows the model to another dtype or device: it is encoded anew."""
        if memory.placed != (self.device, self.dtype):
            memory.move(self.device, self.dtype, self.backbone.fingerprint)
        super().check_unchanged(memory)

    def take_in(self, past: Past, memory: Any) -> None:
        if memory.num_rows and past.rows.tolist() != list(range(memory.num_rows)):
            raise LtmError(f"method {self.name} reads all its {memory.num_rows} rows together, in order")
        memory.begin(len(past.ids), past.ids.device)
        memory.past.run(self, past.ids, past.mask, past.rows, 1)

    def score_and_read(self, past: Past, memory: Any) -> Tensor:
        if memory is None:
            return super().score_and_read(past, None)
        memory.begin(len(past.ids), past.ids.device)
        return memory.past.run(self, past.ids, past.mask, past.rows)

    def start_stream(self, stream: Stream | None, rows: Tensor, memory: Any) -> Stream:
        """A stream that starts goes on from what was read; the past itself is not touched."""
        stream = super().start_stream(stream, rows, memory)
        if memory is None or memory.past.tokens is None or stream.get_seq_length():
            return stream
        if memory.past.stale and memory.past.holds_tokens:
            self._encode_past(memory.past)
        return memory.past.fork(rows, into=stream)

    @torch.no_grad()
    def _encode_past(self, past: Stream) -> None:
        """Once here, not in every stream that starts from what was read."""
        ids, mask = past.context()
        past.clear_keys()
        self.encode(Window(ids, mask, past, torch.arange(len(ids), device=ids.device), 1))
        past.valid = mask


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


@register("window")
class LocalWindow(StreamReader):
    """The backbone with the most recent tokens only."""

    config_class = WindowConfig
    card = Card("", "what the backbone does without a memory", "", needs_training=False)

    def new_stream(self) -> Stream:
        config = self.method_config
        return Stream(config.local_window, stride_of(config.local_window, config.stride))


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
