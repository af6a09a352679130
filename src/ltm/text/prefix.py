"""A prompt's beginning that is kept encoded, so that the next question of a conversation re-encodes little.

What a conversation begins with stays byte for byte the same: earlier turns stand first, recalled passages only in the
last turn. The stream of tokens up to that turn is kept and gone on with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltm.streams.open_stream import OpenStream


class KeptPrefix:
    """The tokens of a prefix and the stream that stands at their end; `mark`: what they were encoded with.

    >>> stream, new = KeptPrefix().at(method, memory, ids, stable=25, mark=("memory", 7))  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._ids = torch.empty(0, dtype=torch.long)
        self._mark: Any = None
        self._stream: OpenStream | None = None

    def at(self, method: Any, memory: Any, ids: Tensor, stable: int, mark: Any) -> tuple[OpenStream, int]:
        """A stream that has the first `stable` tokens of a prompt [1, tokens], with which the next one will begin, too;
        and how many tokens of the prompt were not encoded before."""
        held, prefix = len(self._ids), ids[0, :stable]
        if self._stream is None or mark != self._mark or held > stable or not torch.equal(self._ids, prefix[:held]):
            self._stream, self._ids, self._mark, held = method.stream(memory), prefix[:0], mark, 0
        if stable > held:
            self._stream.push(prefix[None, held:], keep=1)
            self._ids = prefix
        return self._stream.fork([0]), ids.shape[1] - held
