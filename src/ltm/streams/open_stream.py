"""OpenStream: a reader's stream as tasks use it, without a cache in their hands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ltm.streams.stream import Stream


class OpenStream:
    """A batch of token streams, each going on from what one memory row holds.

    From `Reader.stream`. Rows can be forked: one prefix is run once, and gone on with in many ways.

    >>> stream = method.stream()  # doctest: +SKIP
    >>> stream.push(prefix); logits = stream.fork([0, 0]).push(endings)  # doctest: +SKIP
    """

    def __init__(self, reader: Any, state: Stream, memory: Any, rows: Sequence[int]):
        self._reader, self._state, self._memory, self._rows = reader, state, memory, list(rows)

    def push(self, ids: Tensor, mask: Tensor | None = None, keep: int = 0) -> Tensor:
        """Go on with tokens int64 [rows, tokens]; logits [rows, keep or tokens, vocab]. mask: [rows, tokens], 0 or
        False = padding; keep: of the last so many tokens, 0 for all."""
        return self._reader(
            ids.to(self._reader.device),
            attention_mask=None if mask is None else mask.to(self._reader.device),
            cache=self._state,
            use_cache=True,
            memory=self._memory,
            memory_rows=self._rows,
            logits_to_keep=keep,
        ).logits

    def fork(self, rows: Sequence[int]) -> OpenStream:
        """A stream whose row i goes on where row rows[i] of this one stands; neither sees the other."""
        chosen = torch.as_tensor(rows, dtype=torch.long, device=self._state.valid.device)
        state = self._state.empty() if self._state.tokens is None else self._state.fork(chosen)
        return OpenStream(self._reader, state, self._memory, [self._rows[row] for row in rows])

    @property
    def cache(self) -> Stream:
        """Its state, to be given to generate() as `cache`, which then is the one that goes on with it."""
        return self._state

    @property
    def num_tokens(self) -> int:
        """Tokens that every row was given, padding included."""
        return self._state.get_seq_length()

    @property
    def window(self) -> int | None:
        """Most tokens that are seen at once; None: no limit."""
        return self._state.window

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and what is carried along."""
        return self._state.nbytes
