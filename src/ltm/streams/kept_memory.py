"""KeptMemory: a past of which only some keys and values were kept, and the stream that goes on from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltm.backbone.fingerprint import dtype_name
from ltm.streams.kept import KeptCache
from ltm.streams.memory import StreamMemory
from ltm.streams.stream import Stream

_PREFIX = "kept."


class KeptStream(Stream):
    """A stream without an end that keeps what its rule lets it keep.

    made_by: the rule and its options, in words; another rule would have kept others. The ids of all its tokens stay, 8
    bytes each, so that what was kept can be made again on another device or in another dtype.
    """

    def __init__(self, made_by: str):
        self.made_by = made_by
        super().__init__(window=None)

    @property
    def shape(self) -> tuple[Any, ...]:
        return *super().shape, self.made_by

    @property
    def kept(self) -> KeptCache | None:
        """What is kept of the tokens so far; None before the first."""
        return self.carried.get("kept")

    def forget_row(self, row: int) -> None:
        """Drop a row; the others go on as they are."""
        rows = self._rows()
        rows[row] = rows[row][:0]
        self.valid = self.valid.clone()
        self.valid[row] = False
        if self.kept is not None:
            kept = self.kept.mapped(lambda tensor: tensor)
            kept.empty_row(row)
            self.note("kept", kept)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values kept, their places and notes."""
        return 0 if self.kept is None else self.kept.nbytes


class KeptMemory(StreamMemory):
    """What a rule kept of what was read. Saved with its keys and values: loaded, it answers the same to the bit.

    >>> memory = method.new_memory(rows=1)  # doctest: +SKIP
    >>> method.read(input_ids, memory=memory); memory.save("kept"); KeptMemory.load("kept").nbytes  # doctest: +SKIP
    """

    kind = "kept"
    past: KeptStream

    def _facts(self) -> dict[str, Any]:
        kept, placed = self.past.kept, self.placed
        dtype = None if placed is None else dtype_name(placed[1])
        return {"made_by": self.past.made_by, "groups": kept.groups if kept else None, "dtype": dtype}

    @classmethod
    def _empty(cls, facts: dict[str, Any]) -> KeptStream:
        return KeptStream(facts["made_by"])

    def _held(self) -> dict[str, Tensor]:
        kept = self.past.kept
        return {} if kept is None else {_PREFIX + name: tensor for name, tensor in kept.to_tensors().items()}

    def _take(self, facts: dict[str, Any], held: dict[str, Tensor]) -> None:
        if facts["groups"] is None:
            return
        tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in held.items() if name.startswith(_PREFIX)}
        self.past.note("kept", KeptCache.from_tensors(facts["groups"], tensors))
        self.past.valid = self.past.context()[1]
        self.past.stale = False
        self.placed = self.past.valid.device, getattr(torch, facts["dtype"])
