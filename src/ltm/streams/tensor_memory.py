"""TensorMemory: rows of named tensors, for memories whose size does not grow with what was read.

A row is a dict of tensors that nobody writes to in place: reading puts a new dict in its place. So rows that beams or
forks share cost nothing until one of them reads on, a copy of the list is all that undoing needs, and a gradient can
flow through what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ltm.backbone.fingerprint import Fingerprint
from ltm.errors import BankMismatchError, LtmError
from ltm.memory import Memory, Rows

Self = TypeVar("Self", bound="TensorMemory")

Tensors = Mapping[str, Tensor]
"""Tensors by name: of one row, or [rows, ...] of several."""


class TensorMemory(Memory):
    """Rows of what was read, each a dict of tensors by name; None where nothing was read yet.

    num_rows: 0 where the first read decides. fingerprint: of the backbone that the tensors belong to; facts: what else
    they are worth nothing without, plain JSON values; one that is None is not compared.

    >>> memory = State(2); memory.put([0], {"memory": torch.zeros(1, 4, 8)})  # doctest: +SKIP
    >>> memory.stacked([1, 0], {"memory": torch.ones(4, 8)})["memory"].shape  # doctest: +SKIP
    torch.Size([2, 4, 8])
    """

    kind: ClassVar[str]
    """What the directory of a saved memory says it is."""

    def __init__(
        self, num_rows: int = 0, fingerprint: Fingerprint | None = None, facts: Mapping[str, Any] | None = None
    ):
        self.rows: list[Tensors | None] = [None] * num_rows
        self._fingerprint, self.facts = fingerprint, dict(facts or {})

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held; what rows share counts once."""
        held = {id(tensor): tensor for row in self.rows if row is not None for tensor in row.values()}
        return sum(tensor.numel() * tensor.element_size() for tensor in held.values())

    @property
    def is_empty(self) -> bool:
        return all(row is None for row in self.rows)

    @property
    def fingerprint(self) -> Fingerprint | None:
        return self._fingerprint

    def begin(self, num_rows: int) -> None:
        """Make so many rows, where the first read decides how many there are."""
        if not self.rows:
            self.rows = [None] * num_rows

    def of(self, rows: Iterable[int], start: Tensors) -> list[Tensors]:
        """What these rows hold; `start` where nothing was read, also of a memory that has no rows yet."""
        held = ((self.rows[number] if self.rows else None) for number in rows)
        return [start if row is None else row for row in held]

    def stacked(self, rows: Iterable[int], start: Tensors) -> dict[str, Tensor]:
        """The same as tensors [rows, ...]."""
        chosen = self.of(rows, start)
        return {name: torch.stack([row[name] for row in chosen]) for name in start}

    def put(self, rows: Sequence[int], tensors: Tensors) -> None:
        """Row rows[i] holds tensors[name][i] from now on; tensors: [rows, ...]."""
        for index, number in enumerate(rows):
            self.rows[number] = {name: tensor[index] for name, tensor in tensors.items()}

    def detach(self) -> None:
        """No gradient flows further back than here."""
        self._change(Tensor.detach)

    def move(self, device: torch.device | str) -> None:
        """Go on there."""
        if any(t.device != torch.device(device) for row in self.rows if row is not None for t in row.values()):
            self._change(lambda tensor: tensor.to(device))

    def check(self, fingerprint: Fingerprint, facts: Mapping[str, Any], start: Tensors) -> None:
        """Raise BankMismatchError where rows are of another backbone, of other facts, or of other tensors than `start`
        has, which a row starts from."""
        differences = [] if self._fingerprint is None else self._fingerprint.differences(fingerprint)
        differences += [
            f"{name}: memory {self.facts.get(name)}, model {value}"
            for name, value in facts.items()
            if self.facts.get(name) not in (None, value)
        ]
        row = next((row for row in self.rows if row is not None), start)
        if odd := sorted(set(row) ^ set(start)) or [name for name in start if row[name].shape != start[name].shape]:
            differences.append(f"{len(odd)} of its tensors, such as {odd[0]}")
        if differences:
            raise BankMismatchError(
                f"this memory is not for this model: {'; '.join(differences)}; open it with the method that made it, "
                "or read the text again"
            )

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        changed = {id(row): {name: change(t) for name, t in row.items()} for row in self.rows if row is not None}
        self.rows = [None if row is None else changed[id(row)] for row in self.rows]

    # what every memory does

    def select(self: Self, rows: Rows) -> Self:
        selected = type(self)(0, self._fingerprint, self.facts)
        selected.rows = [self.rows[int(row)] for row in rows]
        return selected

    def reset(self, rows: Rows | None = None) -> None:
        if rows is None:
            self.rows = []
            return
        for row in rows:
            self.rows[int(row)] = None

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        before = list(self.rows)
        try:
            yield
        except BaseException:
            self.rows = before
            raise

    def save(self, path: str | Path) -> None:
        from ltm.saved_memory import write_memory

        read = [number for number, row in enumerate(self.rows) if row is not None]
        made_by = None if self._fingerprint is None else self._fingerprint.to_dict()
        facts = {"num_rows": self.num_rows, "rows_read": read, "fingerprint": made_by, "facts": self.facts}
        write_memory(path, self.kind, facts, self._to_save(read))

    def _to_save(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Tensors [rows read, ...]."""
        first = next((row for row in self.rows if row is not None), {})
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.stacked(rows, first).items()}

    @classmethod
    def load(cls: type[Self], path: str | Path, *, device: Any = "cpu", mmap: bool = True) -> Self:
        from ltm.saved_memory import read_memory

        saved, tensors = read_memory(path, cls.kind, device)
        num_rows, read, made_by = saved["num_rows"], saved["rows_read"], saved["fingerprint"]
        fits = all(len(tensor) == len(read) for tensor in tensors.values())
        if not fits or len(set(read)) != len(read) or not all(0 <= row < num_rows for row in read):
            raise LtmError(f"{path} is damaged: its tensors do not fit the rows it names; restore it or read again")
        memory = cls(num_rows, None if made_by is None else Fingerprint.from_dict(made_by), saved["facts"])
        memory.put(read, tensors)
        return memory
