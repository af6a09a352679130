"""The baselines that every method is measured against: the whole context, the local window, sinks and the window.

All three are the backbone alone. What they read stays as tokens in a stream of windows (`MemoryCache`): `full` never
lets go, `window` keeps the most recent tokens, `sinks` keeps the first few as well (Xiao et al., 2023, "Efficient
Streaming Language Models with Attention Sinks", in the form of its sliding window with re-computation: when a window
is full, what is kept is encoded anew at positions from 0, so that it also works with learned positions and no key was
computed with a context that is gone; StreamingLLM proper keeps the old keys, which is cheaper and slightly worse).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ltm.cache import MemoryCache
from ltm.errors import ConfigError, LtmError
from ltm.methods.base import Card, Method
from ltm.methods.checks import stride_of
from ltm.methods.registry import register

Self = TypeVar("Self", bound="StreamBaseline")


@dataclass(frozen=True)
class FullConfig:
    """The whole context has no choices."""

    @classmethod
    def tiny(cls) -> FullConfig:
        return cls()


@dataclass(frozen=True)
class WindowConfig:
    """The most recent tokens only."""

    local_window: int = 1024
    """Most tokens the backbone sees at once."""
    stride: int | None = None
    """Tokens that leave when the window is full; None: half of the window."""

    def __post_init__(self) -> None:
        check_window(self.local_window, self.stride, 0)

    @classmethod
    def tiny(cls) -> WindowConfig:
        return cls(local_window=12)


@dataclass(frozen=True)
class SinksConfig:
    """The first tokens and the most recent ones."""

    local_window: int = 1024
    """Most tokens the backbone sees at once, sinks included."""
    stride: int | None = None
    """Tokens that leave when the window is full; None: half of the window."""
    num_sinks: int = 4
    """First tokens of the text that always stay."""

    def __post_init__(self) -> None:
        check_window(self.local_window, self.stride, self.num_sinks)

    @classmethod
    def tiny(cls) -> SinksConfig:
        return cls(local_window=12, num_sinks=2)


def check_window(local_window: int, stride: int | None, num_sinks: int) -> None:
    """Raise ConfigError for a window that could never move."""
    problems = []
    if local_window < 2:
        problems.append(f"local_window={local_window}; use 2 or more")
    if stride is not None and not 0 < stride <= local_window - num_sinks:
        problems.append(f"stride={stride}; use 1 to {max(local_window - num_sinks, 1)}")
    if not 0 <= num_sinks < local_window:
        problems.append(f"num_sinks={num_sinks}; use fewer than local_window={local_window}")
    if problems:
        raise ConfigError(problems)


class StreamBaseline(Method):
    """A baseline whose memory is the tokens of its own window."""

    def __init__(self, backbone: Any, config: Any):
        super().__init__(backbone, config)
        self._past: MemoryCache | None = None
        self._past_rows = 0

    def take_in(
        self,
        ids: Tensor,
        mask: Tensor,
        rows: Tensor,
        documents: Sequence[int] | None,
        spans: Tensor | None,
    ) -> None:
        if self._past is None:
            self._past = self.new_cache()
            self._past_rows = len(ids)
        elif rows.tolist() != list(range(self._past_rows)):
            raise LtmError(f"method {self.name} reads all its {self._past_rows} rows together, in order")
        self._past.begin(len(ids), ids.device)
        self._stream(ids, mask, self._past, rows, 1)

    def score_and_read(self, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        if self._past is None:
            self._past, self._past_rows = self.new_cache(), len(ids)
        return self._stream(ids, mask, self._past, rows, 0)

    def forget(self, rows: list[int] | None) -> None:
        if rows is None or self._past is None or self._past.tokens is None:
            self._past, self._past_rows = None, 0
            return
        for row in rows:
            self._past.tokens[row] = self._past.tokens[row][:0]
        self._past.stale = True

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        past, num_rows = None if self._past is None else self._past.as_it_stands(), self._past_rows
        try:
            with super().undone_on_failure():
                yield
        except BaseException:
            self._past, self._past_rows = past, num_rows
            raise

    @property
    def num_rows(self) -> int:
        return self._past_rows

    def start_stream(self, cache: MemoryCache | None, rows: Tensor) -> MemoryCache:
        """A stream that starts goes on from what was read; the past itself is not touched."""
        if self._past is None or (cache is not None and cache.get_seq_length()):
            return super().start_stream(cache, rows)
        if self._past.stale and self._past.holds_tokens:
            self._encode_past(self._past)
        return self._past.fork(rows, into=cache)

    @torch.no_grad()
    def _encode_past(self, past: MemoryCache) -> None:
        """Once here, not in every stream that starts from what was read."""
        ids, mask = past.context()
        past.clear_keys()
        self.encode(ids, mask, past, torch.arange(len(ids), device=ids.device), 1)
        past.valid = mask

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What was read follows the model to its new dtype or device."""
        before = self.dtype, self.device
        super()._apply(fn, recurse)
        if self._past is not None and before != (self.dtype, self.device):
            self._past.move(self.device)
        return self


@register("full")
class FullContext(StreamBaseline):
    """The backbone with everything in its context, as far as its positions reach."""

    config_class = FullConfig
    card = Card("", "upper bound on what a memory can give, where it fits", "", needs_training=False)

    @property
    def max_stream_tokens(self) -> int | None:
        return self.backbone.view.max_positions

    def new_cache(self) -> MemoryCache:
        return MemoryCache(window=None)

    def encode(self, ids: Tensor, mask: Tensor, cache: MemoryCache | None, rows: Tensor, keep: int) -> Tensor:
        limit, length = self.max_stream_tokens, int(mask.sum(dim=1).max())
        if limit is not None and length > limit:
            raise LtmError(f"{length} tokens do not fit the backbone's {limit} positions; use a method with a memory")
        return super().encode(ids, mask, cache, rows, keep)


@register("window")
class Window(StreamBaseline):
    """The backbone with the most recent tokens only."""

    config_class = WindowConfig
    card = Card("", "what the backbone does without a memory", "", needs_training=False)

    def new_cache(self) -> MemoryCache:
        config = self.method_config
        return MemoryCache(config.local_window, stride_of(config.local_window, config.stride))


@register("sinks")
class Sinks(StreamBaseline):
    """The backbone with the first few tokens and the most recent ones."""

    config_class = SinksConfig
    card = Card(
        "Xiao et al., 2023, arXiv:2309.17453",
        "keeping the first tokens keeps a sliding window fluent",
        "kept tokens are encoded anew instead of carried over",
        needs_training=False,
    )

    def new_cache(self) -> MemoryCache:
        config = self.method_config
        stride = stride_of(config.local_window - config.num_sinks, config.stride)
        return MemoryCache(config.local_window, stride, config.num_sinks)
