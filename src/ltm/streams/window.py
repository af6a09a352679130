"""What a method is handed: the past to take in, and one window to encode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from ltm.streams.stream import Stream


class Past(NamedTuple):
    """What `read` takes in, checked once.

    ids: int64 [batch, tokens]; mask: bool [batch, tokens], False = padding; rows: int64 [batch], each row's row of the
    memory; documents: the bank's document id of each row; spans: [batch, tokens, 2], character ranges in its text.
    """

    ids: Tensor
    mask: Tensor
    rows: Tensor
    documents: Sequence[int] | None = None
    spans: Tensor | None = None


class Window(NamedTuple):
    """One pass through the networks.

    ids: int64 [batch, new tokens]; mask: bool [batch, held + new tokens], False = padding; keys and values of the held
    tokens are in stream.caches (stream None: nothing is held or kept); rows: int64 [batch], each row's row of the
    memory; keep: only the last so many tokens' logits, 0 for all; memory: what was read before, None where it is off;
    fresh: bool [batch, columns of ids], tokens that came now, the others being context that is encoded anew (None: all
    that mask has).
    """

    ids: Tensor
    mask: Tensor
    stream: Stream | None
    rows: Tensor
    keep: int = 0
    memory: Any = None
    fresh: Tensor | None = None


class WindowReader(Protocol):
    """What a stream asks of the method whose window it is.

    slides: the backbone has layers with a sliding window of their own; weighs_every_token: what is given depends on how
    well each earlier token was predicted, so that none is passed over; tracing: the trace that wants every token, if
    there is one.
    """

    @property
    def slides(self) -> bool: ...
    @property
    def weighs_every_token(self) -> bool: ...
    @property
    def tracing(self) -> Any: ...
    def encode(self, window: Window) -> Tensor: ...
    def encode_leaving(self, window: Window) -> None: ...
    def spill(self, row: int, token_ids: Tensor, columns: Tensor, stream: Stream) -> None: ...
