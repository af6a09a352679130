"""StreamReader: base of readers whose memory is a stream of windows, from which every stream that starts goes on."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ltm.errors import BankMismatchError, LtmError
from ltm.memory import Memory
from ltm.methods.reader import Reader
from ltm.streams import Past, Stream, StreamMemory, Window


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
