"""Retriever: base of methods that cut texts into passages, look some up and put them before the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ltm.methods.text.base import TextFields, TextMemory
from ltm.notes.records import Event, Found
from ltm.notes.row import NoteRow
from ltm.notes.search import By
from ltm.notes.splitting import Span
from ltm.notes.writer import Message, Messages

PASSAGE = "passage"
"""The kind of a retriever's notes."""


@dataclass(frozen=True)
class RetrieverFields(TextFields):
    """What every retriever lets choose."""

    search: By = "hybrid"
    """How passages are found: words (BM25), meaning (the encoder's vectors), hybrid (both, fused by rank)."""
    num_passages: int = 5
    """Passages put before the question."""
    num_candidates: int = 20
    """Passages that the search gives and the method ranks."""

    def problems(self) -> list[str]:
        found = super().problems()
        if not 1 <= self.num_passages <= self.num_candidates:
            came = f"num_passages={self.num_passages}, num_candidates={self.num_candidates}"
            found.append(f"{came}; use 1 or more passages, and as many candidates or more")
        return found


class Retriever(TextMemory):
    """Base of retrieval methods; `split`, `rank` and `compose` are theirs.

    An assistant's answers are logged, but not looked up: what was recalled once would come back as a source.
    """

    def split(self, text: str) -> Sequence[Span]:
        """Character ranges of the passages of a text."""
        raise NotImplementedError

    def rank(self, query: str, found: list[Found]) -> list[Found]:
        """The candidates, best first; by default as the search has them."""
        return found

    def compose(self, messages: Messages, found: Sequence[Found], notes: NoteRow) -> list[Message]:
        """The writer's prompt: passages as a message with "recalled": True, then the question."""
        raise NotImplementedError

    # final

    @property
    def searches_by_meaning(self) -> bool:
        return self.method_config.search != "words"

    def take_in(self, event: Event, notes: NoteRow) -> None:
        if event.role == "assistant":
            return
        for start, end in self.split(event.text):
            notes.add(event.text[start:end], event.cite(start, end), kind=PASSAGE)

    def look(self, query: str, notes: NoteRow) -> list[Found]:
        config = self.method_config
        found = notes.search(query, config.num_candidates, by=config.search, kind=PASSAGE)
        return self.rank(query, found)[: config.num_passages]
