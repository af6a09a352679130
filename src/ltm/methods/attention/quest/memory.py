"""PagedMemory: what Quest has read, as pages at their true positions, and as a bank where it was read into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltm.backbone import BackboneView
from ltm.backbone.fingerprint import Fingerprint
from ltm.bank import Bank
from ltm.memory import Rows
from ltm.methods.attention.quest import storing
from ltm.streams import StreamMemory
from ltm.streams.pages import PagedCache


class PagedMemory(StreamMemory):
    """A past in pages. With a bank, that is what was read: the pages are a cache of it, made again where it changed.

    empty: a cache of Quest's that holds nothing; bank: of all layers, without a limit. Without a bank token ids are
    saved and encoded anew; with one, its keys and values as well.
    """

    kind = "pages"
    past: PagedCache

    def __init__(
        self,
        empty: PagedCache,
        fingerprint: Fingerprint | None = None,
        rows: int = 0,
        bank: Bank | None = None,
    ):
        super().__init__(empty, fingerprint if bank is None else bank.fingerprint, rows)
        self._bank, self._version = bank, -1  # of the bank whose tokens the pages hold
        self.device = None if bank is None else bank.device

    @property
    def bank(self) -> Bank | None:
        return self._bank

    @property
    def num_rows(self) -> int:
        return super().num_rows if self._bank is None else self._bank.num_rows

    @property
    def nbytes(self) -> int:
        return super().nbytes + (0 if self._bank is None else self._bank.nbytes)

    @property
    def is_empty(self) -> bool:
        return super().is_empty if self._bank is None else self._bank.is_empty

    def begin(self, rows: int, device: torch.device) -> None:
        if self._bank is not None:
            self._bank.begin(rows)
        super().begin(self.num_rows or rows, device)

    def move(self, device: torch.device, dtype: torch.dtype, fingerprint: Fingerprint) -> None:
        if self._bank is None:  # a bank's keys stay as they are, and are refused where they do not fit
            super().move(device, dtype, fingerprint)
        self.placed = device, dtype

    def follow_bank(self, view: BackboneView) -> None:
        """Take the pages from the bank where it holds something else than they do: it was opened, or changed."""
        if self._bank is None or self._bank.version == self._version:
            return
        self.past = self.past.empty()
        if not self._bank.is_empty:
            storing.restore(self._bank, self.past, view)
        self._version = self._bank.version

    def store(
        self, view: BackboneView, mask: Tensor, documents: Sequence[int] | None = None, spans: Tensor | None = None
    ) -> None:
        """Add to the bank the tokens that the pages hold beyond it; arguments as `Past` has them."""
        if self._bank is not None:
            storing.write(self._bank, self.past, view, mask, documents, spans)
            self._version = self._bank.version

    def select(self, rows: Rows) -> PagedMemory:
        other = super().select(rows)
        if self._bank is not None:
            other._bank, other.device = self._bank.select(rows), self.device
            other._version = other._bank.version if self._version == self._bank.version else -1
        return other

    def reset(self, rows: Rows | None = None) -> None:
        super().reset(rows)
        if self._bank is not None:
            self._bank.reset(rows)
            self._version = self._bank.version

    def save(self, path: str | Path) -> None:
        if self._bank is None:
            super().save(path)
        else:
            self._bank.save(path)

    @classmethod
    def load(cls, path: str | Path, *, device: Any = "cpu", mmap: bool = True) -> PagedMemory:
        if not Bank.exists(path):
            return super().load(path, device=device)
        bank = Bank.load(path, device=device, mmap=mmap)
        return cls(PagedCache(bank.config.chunk_size), bank=bank)

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        bank = self._bank
        followed = bank is not None and bank.version == self._version
        try:
            with super().undone_on_failure(), nullcontext() if bank is None else bank.undone_on_failure():
                yield
        except BaseException:
            self._version = bank.version if bank is not None and followed else -1
            raise

    def _facts(self) -> dict[str, Any]:
        return {"page_size": self.past.page_size}

    @classmethod
    def _empty(cls, facts: dict[str, Any]) -> PagedCache:
        return PagedCache(facts["page_size"])

    def _fill(self, tokens: list[Tensor]) -> None:
        super()._fill(tokens)
        self.past.carried["read_marks"] = [torch.ones_like(ids, dtype=torch.bool) for ids in tokens]
