"""Recall: passages of what was read, found for a question and put into the window before it.

Attention to remembered keys serves what a text goes on with; a question needs the passage itself before the model's
eyes. The texts that were read are cut into passages, as `rag` cuts them, in a store of notes, and found by words
(BM25), by meaning (MiniLM, where it is installed), and by what stands beside them. Of the best passages only the
sentences nearest the question are shown, in the order of the text: a small model wants little before its eyes.

The store is a cache: it is made of the texts, follows them, and can be thrown away. The backbone's own keys,
which a bank has at hand, find one passage in seven where words find six (docs/log/2026-11-27-recall.md): they are not
asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Error
from typing import TYPE_CHECKING, Literal

from ltm.bank.disk.file_names import PASSAGES
from ltm.bank.disk.lock import WriteLock
from ltm.bank.disk.manifest_file import read_head
from ltm.configs import NUM_PASSAGES
from ltm.data.passages import Passage
from ltm.errors import LtmError
from ltm.methods.retrieval.base import by_score, ranked_lists
from ltm.methods.retrieval.rag import Rag, RagConfig
from ltm.notes.encoder import installed_encoder
from ltm.notes.records import Event, Found
from ltm.notes.row import NoteRow
from ltm.notes.store import FILE, NoteStore
from ltm.text.means import Means
from ltm.text.shown import shown_sentences

if TYPE_CHECKING:
    from ltm.bank import Bank
    from ltm.bank.documents import Documents

RecallMode = Literal["both", "text", "memory", "off"]
"""both: passages in the window, and the memory attached; text: passages alone; memory: the memory alone; off: none."""
LISTED = 10
"""Passages that a search lists."""
WINDOW_SHARE = 0.5
"""Most of the window that passages may take."""
BEFORE_SHARE = 0.3
"""What the words of the turn before count for, of a question that follows it."""
SURE = (-11.4, 6.9, 14.1)
"""Log-odds that what was found answers the question: a constant, for the share of its words that the best passages
hold, for the best cosine. Logistic regression on 600 SQuAD questions, half of them on other articles than were
read (benchmarks/measurements/recall_search.py)."""
SURE_BY_WORDS = (-5.6, 8.3)
"""The same where there are no vectors."""


@dataclass(frozen=True)
class Recalled:
    """What was found for a question. found: passages, best first, up to LISTED; shown: the sentences for the window, in
    the order of the text; confidence: 0..1 that they answer it; evidence: what it is worked out from, the share of the
    question's words that the best passages hold and, with vectors, the best cosine."""

    found: list[Passage]
    shown: list[Passage]
    confidence: float | None = None
    evidence: Sequence[float] = ()


def given_passages(texts: Sequence[str]) -> Recalled:
    """Texts that stand before a question in place of what would be found for it."""
    return Recalled([], [Passage(None, None, None, text, 1.0) for text in texts])


class PassageRecall:
    """Finds passages in the texts that were read into one row of a memory.

    encoder: a name for `load_encoder`, "auto" for MiniLM where it is installed, None to find by words alone.

    >>> recall = PassageRecall(None)
    >>> recall.add(0, "letter", "The key is under the mat. The mat is red.")
    >>> recall.find("Where is the key?").shown[0].text
    'The key is under the mat.'
    """

    def __init__(self, encoder: str | None = "auto"):
        chosen = installed_encoder() if encoder == "auto" else encoder
        config = RagConfig(search="words" if chosen is None else "hybrid", encoder=chosen or RagConfig.encoder)
        self.retriever, self.has_vectors = Rag.open(config, Means()), chosen is not None
        self._use(self.retriever.new_memory())

    def _use(self, store: NoteStore) -> None:
        self.store, self._next, self._deleted_at = store, 0, -1
        self._followed: Documents | None = None
        self._events = {int(event.source): event.id for event in store[0].events()}  # by document
        self._names = {event.id: event.about["name"] for event in store[0].events()}
        self._unsaved = self._chars = 0

    @property
    def notes(self) -> NoteRow:
        """The passages."""
        return self.store.row(0, lambda: self.retriever.means.encoder)

    # following what is read

    def follow(self, documents: Documents, progress: Callable[[int, int], None] | None = None) -> None:
        """Take in the texts that were read since, and forget those that are not there any more; all, where these are
        another memory's documents than were followed before."""
        if self._followed is not None and self._followed is not documents:
            self._use(self.retriever.new_memory())
        self._followed = documents
        if documents.deleted_at != self._deleted_at or documents.next_id < self._next:
            for number in [number for number in self._events if number not in documents]:
                self.forget(number)
            self._next = 0
        for document in (documents[n] for n in range(self._next, documents.next_id) if n in documents):
            if document.complete and document.text is not None and document.id not in self._events:
                self.add(document.id, document.name, document.text, progress, document.ranges)
        self._next, self._deleted_at = documents.next_id, documents.deleted_at

    def add(
        self,
        document: int,
        name: str,
        text: str,
        progress: Callable[[int, int], None] | None = None,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """Take in the text of a document, or ranges of its characters."""
        about = {"name": name, "ranges": _plain(ranges)}
        event = self.retriever.remember(
            text, str(document), role="document", about=about, memory=self.store, progress=progress
        )
        assert event is not None
        self._events[document], self._names[event.id] = event.id, name
        self._unsaved += len(text)

    def forget(self, document: int) -> None:
        """Delete a document and all that was derived from it."""
        self.retriever.forget(str(document), memory=self.store)
        del self._names[self._events.pop(document)]

    def load(self, path: Path, bank: Bank) -> None:
        """What `save` wrote beside a bank, as far as it is this bank's and was made in the same way."""
        file = path / PASSAGES / FILE
        if not NoteStore.exists(path / PASSAGES) or file.is_symlink() or file.parent.is_symlink():
            return
        with suppress(LtmError, OSError, Error):  # damaged, or another encoder's: it is made anew
            store = NoteStore.load(path / PASSAGES)
            self.retriever.check_memory(store)
            if store.facts.get("bank") == bank.uuid and _says_what_it_cites(store[0]):
                self._use(store)
                for event in store[0].events():
                    if not _is_in(bank, event):
                        self.forget(int(event.source))

    def save(self, path: Path, bank: Bank, *, much: bool = False) -> None:
        """Write the store beside a bank that is saved there; much: only where a quarter of it or more is new.

        Nothing is written beside a bank that another process has changed since: what was deleted there must not come
        back. What cannot be written is made again the next time.
        """
        if much and self._unsaved * 4 <= self._chars:
            return
        with suppress(LtmError, OSError, Error), WriteLock(path):
            if read_head(path).revision != bank.saved_revisions.get(path.resolve()):
                return
            self.store.set_fact("bank", bank.uuid)
            self.store.save(path / PASSAGES)
            self._chars, self._unsaved = self._chars + self._unsaved, 0

    # finding

    def find(
        self, question: str, before: str = "", num_passages: int = NUM_PASSAGES, leave_out: Collection[str] = ()
    ) -> Recalled:
        """The passages that fit a question, and what is shown of the best of them.

        before: the turn before it, which a question may hang on; leave_out: names of documents that stand before the
        model already, of which nothing is found.
        """
        notes = self.notes
        lists = ranked_lists(question, notes, self.retriever.method_config.search)
        left_out = self._notes_of(leave_out)
        lists = {by: [(note, score) for note, score in ranked if note not in left_out] for by, ranked in lists.items()}
        scored = dict(by_score(lists, notes))
        if before:
            for note, score in by_score({"words": notes.ranked(before, LISTED, "words")}, notes):
                scored[note] = scored.get(note, 0.0) + BEFORE_SHARE * score
        ranked = sorted(scored.keys() - left_out, key=lambda note: (-scored[note], note))[:LISTED]
        found = [Found(note, scored[note.id]) for note in notes.notes(ids=ranked)]
        best = found[:num_passages]
        if not best:
            return Recalled([], [], 0.0)
        words = notes.weighed_words(question)
        evidence = [words.in_notes(one.note.id for one in best), *(score for _, score in lists.get("meaning", [])[:1])]
        shown = shown_sentences(question, [one.note for one in best], notes, words, num_passages + 1, self.has_vectors)
        shown = [one for one in shown if self._names[one.event] not in leave_out]
        return Recalled(
            [self._passage(one) for one in found],
            [Passage(self._names[one.event], one.start, one.end, one.text, max(one.nearness, 0.0)) for one in shown],
            _confidence(evidence),
            evidence,
        )

    def _notes_of(self, names: Collection[str]) -> set[int]:
        """Ids of the notes of documents."""
        events = [event for event, name in self._names.items() if name in names] if names else []
        return {note for event in events for note in self.notes.citing(event)}

    def search(self, query: str, count: int) -> list[Passage]:
        """So many passages that fit a query best, best first."""
        found = self.notes.search(query, count, self.retriever.method_config.search)
        return [self._passage(one) for one in found]

    def _passage(self, found: Found) -> Passage:
        (cite,) = found.note.cites
        return Passage(self._names[cite.event], cite.start, cite.end, found.note.text, found.score)


def _confidence(evidence: Sequence[float]) -> float:
    """How likely it is that what was found answers a question."""
    constant, *weights = SURE if len(evidence) > 1 else SURE_BY_WORDS
    odds = constant + sum(weight * figure for weight, figure in zip(weights, evidence, strict=True))
    return 1 / (1 + math.exp(-odds))


def _is_in(bank: Bank, event: Event) -> bool:
    """Whether a bank still has what an event says, and no less of it is to be shown."""
    known = bank.document_registry.by_id.get(int(event.source))
    return known is not None and known.text == event.text and _plain(known.ranges) == event.about.get("ranges")


def _plain(ranges: Sequence[tuple[int, int]] | None) -> list[list[int]] | None:
    """Ranges as JSON has them."""
    return None if ranges is None else [list(both) for both in ranges]


def _says_what_it_cites(notes: NoteRow) -> bool:
    """Whether every passage is what stands at its place: a bank may come from anywhere."""
    texts = {event.id: event.text for event in notes.events()}
    return all(note.text == texts[cite.event][cite.start : cite.end] for note in notes.notes() for cite in note.cites)
