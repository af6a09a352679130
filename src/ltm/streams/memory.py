"""StreamMemory: a past that is itself a stream of windows, from which every stream that starts goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ltm.backbone.fingerprint import Fingerprint
from ltm.memory import Memory, Rows
from ltm.saved_memory import read_memory, write_memory
from ltm.streams.stream import Stream

Self = TypeVar("Self", bound="StreamMemory")


class StreamMemory(Memory):
    """What was read, as the tokens of a window with their keys and values.

    empty: a stream of the method's kind that holds nothing; fingerprint: the backbone's that encodes it. Token ids are
    saved, keys and values are encoded anew: they are caches of them.

    >>> memory = method.new_memory(rows=1)  # doctest: +SKIP
    >>> method.read(input_ids, memory=memory); memory.past.tokens[0]  # doctest: +SKIP
    """

    kind = "stream"

    def __init__(self, empty: Stream, fingerprint: Fingerprint | None = None, rows: int = 0):
        self.past, self._fingerprint, self._rows = empty, fingerprint, rows
        self.placed: tuple[torch.device, torch.dtype] | None = None  # where it was used last

    @property
    def fingerprint(self) -> Fingerprint | None:
        return self._fingerprint

    @property
    def num_rows(self) -> int:
        return self._rows

    @property
    def nbytes(self) -> int:
        return self.past.nbytes

    @property
    def is_empty(self) -> bool:
        return self.past.tokens is None or not self.past.holds_tokens

    def num_tokens(self, row: int = 0) -> int:
        """Tokens that a row holds."""
        return 0 if self.past.tokens is None else len(self.past.tokens[row])

    def begin(self, rows: int, device: torch.device) -> None:
        """Make room for so many rows at the first read."""
        self._rows = self._rows or rows
        self.past.begin(self._rows, device)

    def select(self: Self, rows: Rows) -> Self:
        numbers = torch.as_tensor(rows, dtype=torch.long)
        other = self._like(len(numbers))
        if self.past.tokens is not None:
            self.past.fork(numbers.to(self.past.valid.device), into=other.past)
        return other

    def reset(self, rows: Rows | None = None) -> None:
        if rows is None or self.past.tokens is None:
            self.past, self._rows = self.past.empty(), 0
            return
        for row in map(int, rows):
            self.past.forget_row(row)

    def move(self, device: torch.device, dtype: torch.dtype, fingerprint: Fingerprint) -> None:
        """Go on there with the same backbone, rounded otherwise: keys and values are encoded anew."""
        self.past.move(device)
        self.placed = device, dtype
        if self._fingerprint is not None:
            self._fingerprint = replace(
                self._fingerprint, dtype=fingerprint.dtype, weights=fingerprint.weights, bits=fingerprint.bits
            )

    def detach(self) -> None:
        """The weights that encode are about to change: keys and values are encoded anew when they are next needed."""
        if self.past.tokens is not None:
            self.past.move(self.past.valid.device)

    def save(self, path: str | Path) -> None:
        tokens = self.past.tokens or [torch.empty(0, dtype=torch.long)] * self._rows
        tensors = {f"tokens.{row}": ids.detach().cpu().contiguous().clone() for row, ids in enumerate(tokens)}
        known = None if self._fingerprint is None else self._fingerprint.to_dict()
        facts = {"fingerprint": known, "rows": self._rows, **self._facts()}
        write_memory(path, self.kind, facts, tensors | self._held())

    @classmethod
    def load(cls: type[Self], path: str | Path, *, device: Any = "cpu", mmap: bool = True) -> Self:
        facts, tensors = read_memory(path, cls.kind, device)
        known = facts["fingerprint"]
        memory = cls(cls._empty(facts), None if known is None else Fingerprint.from_dict(known), facts["rows"])
        if facts["rows"]:
            memory.begin(facts["rows"], torch.device(device))
            memory._fill([tensors[f"tokens.{row}"] for row in range(facts["rows"])])
            memory._take(facts, tensors)
        return memory

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        past, rows = self.past.as_it_stands(), self._rows
        try:
            yield
        except BaseException:
            self.past, self._rows = past, rows
            raise

    # what another kind does in its own way

    def _like(self: Self, rows: int) -> Self:
        """An empty memory of the same kind."""
        return type(self)(self.past.empty(), self._fingerprint, rows)

    def _facts(self) -> dict[str, Any]:
        """What `_empty` needs to make the stream again."""
        past = self.past
        return {"window": past.window, "stride": past.stride, "num_sinks": past.num_sinks}

    @classmethod
    def _empty(cls, facts: dict[str, Any]) -> Stream:
        return Stream(facts["window"], facts["stride"], facts["num_sinks"])

    def _fill(self, tokens: list[Tensor]) -> None:
        """Hold these tokens of each row; their keys and values are encoded when they are first needed."""
        self.past.tokens = list(tokens)
        self.past.stale = self.past.holds_tokens

    def _held(self) -> dict[str, Tensor]:
        """What is saved beside the token ids."""
        return {}

    def _take(self, facts: dict[str, Any], held: dict[str, Tensor]) -> None:
        """Take in what `_facts` and `_held` gave, after the token ids."""
