"""Memory: what a method has read, apart from the method.

One loaded model serves any number of memories; each is handed to `read`, `forward` and `generate`. A bank of keys and
values, a window's tokens, a recurrent state, weights that were learned while reading, a store of notes: all are
memories, with rows that never see each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union

if TYPE_CHECKING:
    from torch import Tensor

    from ltm.backbone.fingerprint import Fingerprint
    from ltm.bank import Bank

Self = TypeVar("Self", bound="Memory")

Rows = Union[Sequence[int], "Tensor"]  # noqa: UP007  (a string is no part of X | Y)
"""Numbers of a memory's rows: int64 [rows] or a list."""


class Memory(ABC):
    """Rows of what was read, that never see each other; caches of text, with the identity of what made them.

    `num_rows`: how many there are, 0 where the first read decides; `nbytes`: what is held now.

    >>> memory = method.new_memory(rows=2)  # doctest: +SKIP
    >>> method.read(input_ids, memory=memory); memory.save("two-users")  # doctest: +SKIP
    """

    device: Any = None
    """Where it lies, if it does not go where its method goes."""

    @property
    @abstractmethod
    def num_rows(self) -> int: ...

    @property
    @abstractmethod
    def nbytes(self) -> int: ...

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether nothing was read, or nothing is left of it."""

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The identity of the backbone whose keys, values or states it holds; None: of no backbone."""
        return None

    @property
    def writer_digest(self) -> str | None:
        """A digest of the trained networks whose keys, values or states it holds; None: of the backbone alone."""
        return None

    @property
    def bank(self) -> Bank | None:
        """The bank that notes which documents were read, where there is one."""
        return None

    @abstractmethod
    def select(self: Self, rows: Rows) -> Self:
        """A memory whose row i is row rows[i] of this one, for beams, forks and users: nothing written to one is seen
        in the other."""

    @abstractmethod
    def reset(self, rows: Rows | None = None) -> None:
        """Forget what these rows hold; None: all."""

    def detach(self) -> None:  # noqa: B027
        """Keep what is held, cut off from the graph that computed it: training calls it after each backward pass.
        By default nothing: most memories hold no graph."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write it to a directory, beside and renamed: a killed process leaves what was there before."""

    @classmethod
    @abstractmethod
    def load(cls: type[Self], path: str | Path, *, device: Any = "cpu", mmap: bool = True) -> Self:
        """What `save` wrote; an LtmError where that is damaged or another kind of memory. mmap: what is large may stay
        in its files, which then have to stay, too."""

    @abstractmethod
    def undone_on_failure(self) -> AbstractContextManager[None]:
        """A block that leaves the memory as it was if it ends by an exception."""


class LeftOut:
    """The kind of LEFT_OUT."""

    def __repr__(self) -> str:
        return "the method's own memory"


LEFT_OUT: Final = LeftOut()
"""A memory that no caller gave: the method's own is used. None is no memory at all."""
