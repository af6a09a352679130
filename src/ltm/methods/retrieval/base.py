"""Retriever: base of methods that cut texts into passages, look some up and put them before the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ltm.methods.text.base import TextFields, TextMemory
from ltm.notes.records import Event, Found
from ltm.notes.row import NoteRow
from ltm.notes.search import By
from ltm.notes.splitting import Span
from ltm.notes.writer import Message, Messages

PASSAGE = "passage"
"""The kind of a retriever's notes."""
Fusion = Literal["rank", "score"]
Ranked = list[tuple[int, float]]
"""Ids of notes and scores, best first."""
SEARCHED = 50
"""Passages in each list that is joined by score."""
WORDS_SHARE, NEIGHBOUR_SHARE = 0.7, 0.15
"""Chosen on other articles and conversations than are reported (docs/log/2026-11-27-recall.md)."""


@dataclass(frozen=True)
class RetrieverFields(TextFields):
    """What every retriever lets choose."""

    search: By = "hybrid"
    """How passages are found: words (BM25), meaning (the encoder's vectors), hybrid (both, fused by rank)."""
    fusion: Fusion = "rank"
    """How words and meaning are joined: by reciprocal rank; or by score, with what stands before and after a passage
    (better on the questions of docs/log/2026-11-27-recall.md)."""
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
        """Passages of an event's text, or of the ranges of its characters that it is about."""
        if event.role == "assistant":
            return
        for first, last in event.about.get("ranges") or [(0, len(event.text))]:
            for start, end in self.split(event.text[first:last]):
                place = event.cite(first + start, first + end)
                notes.add(event.text[first + start : first + end], place, kind=PASSAGE)

    def look(self, query: str, notes: NoteRow) -> list[Found]:
        return self.rank(query, self.candidates(query, notes))[: self.method_config.num_passages]

    def candidates(self, query: str, notes: NoteRow) -> list[Found]:
        """What the search gives, best first."""
        config = self.method_config
        if config.fusion == "rank":
            return notes.search(query, config.num_candidates, by=config.search, kind=PASSAGE)
        scored = by_score(ranked_lists(query, notes, config.search), notes)[: config.num_candidates]
        found = notes.notes(ids=[note for note, _ in scored])
        return [Found(note, score) for note, (_, score) in zip(found, scored, strict=True)]


def ranked_lists(query: str, notes: NoteRow, search: By) -> dict[By, Ranked]:
    """Passages' ids and scores, best first, by each of the searches that a search consists of."""
    chosen: tuple[By, ...] = ("words", "meaning") if search == "hybrid" else (search,)
    return {by: notes.ranked(query, SEARCHED, by, PASSAGE) for by in chosen}


def by_score(lists: Mapping[By, Ranked], notes: NoteRow, neighbour_share: float = NEIGHBOUR_SHARE) -> Ranked:
    """Lists as one: scores over their list's best, words by WORDS_SHARE and meaning by the rest, and so much of those
    of a passage's neighbours in its text on top.

    What stands beside a turn or a paragraph says what it is about where it does not itself.
    """
    scores: dict[int, float] = {}
    for by, scored in lists.items():
        share = 1.0 if len(lists) == 1 else WORDS_SHARE if by == "words" else 1 - WORDS_SHARE
        best = max((score for _, score in scored), default=0.0)
        for note, score in scored if best > 0 else ():
            scores[note] = scores.get(note, 0.0) + share * score / best
    wanted = {near for note in scores for near in (note - 1, note, note + 1) if near >= 0}
    event = {note.id: note.cites[0].event for note in notes.notes(ids=sorted(wanted)) if note.kind == PASSAGE}
    total = {
        note: scores.get(note, 0.0)
        + neighbour_share * sum(scores.get(near, 0.0) for near in (note - 1, note + 1) if event.get(near) == own)
        for note, own in event.items()
    }
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))
