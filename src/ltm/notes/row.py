"""One row of a store of notes: what a method reads and writes, without a word of SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ltm.data.documents import check_text
from ltm.errors import LtmError
from ltm.notes.database import Database
from ltm.notes.records import Cite, Event, Forgotten, Found, Note, cites_of
from ltm.notes.row_tables import RowTables
from ltm.notes.search import By, RowSearch, WeighedWords
from ltm.notes.vectors import VectorCache

if TYPE_CHECKING:
    from ltm.notes.encoder import Encoder


class NoteRow:
    """Events and notes of one row. Made by `NoteStore.row`; any number of them may be made of one row.

    Each call is a transaction; several become one inside a block of `transaction()`.
    """

    def __init__(
        self, database: Database, row: int, vectors: VectorCache, encoder: Callable[[], Encoder] | None = None
    ):
        self.row, self.database = row, database
        self._tables, self._vectors = RowTables(database, row), vectors
        self._search = RowSearch(self._tables, vectors, encoder)
        self.transaction = database.transaction

    @property
    def encoder(self) -> Encoder:
        """What makes vectors; LtmError where the row was opened without one."""
        return self._search.encoder

    # the event log

    def append(
        self,
        text: str,
        source: str = "",
        role: str = "user",
        time: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Event:
        """Log what was said or read; time: ISO 8601, None: now. Raises LtmError for text that is none."""
        text, source = check_text(text, source or "the text"), check_text(source, "the source")
        time = time or datetime.now(timezone.utc).isoformat(timespec="seconds")
        with self.transaction():
            event = Event(self._tables.next_id("event"), source, role, text, time, dict(about or {}))
            self._tables.write_event(event)
        return event

    def events(self, source: str | None = None) -> list[Event]:
        """The log in order, or what it has of one source."""
        return self._tables.events() if source is None else self._tables.events("AND source = ?", (source,))

    def event(self, event: int) -> Event:
        """One event; LtmError where it is not there (any more)."""
        found = self._tables.events("AND id = ?", (event,))
        if not found:
            raise LtmError(f"event {event} is not in this row; it was never logged, or its source was forgotten")
        return found[0]

    @property
    def sources(self) -> list[str]:
        """The names that can be forgotten, in the order they came."""
        rows = self.database.run(
            "SELECT source FROM events WHERE row = ? GROUP BY source ORDER BY min(id)", (self.row,)
        )
        return [source for (source,) in rows]

    def forget(self, source: str) -> Forgotten:
        """Delete a source's events and every note that cites one of them, from every table, index and file.

        A note that cites others as well goes too: what it says cannot be told apart. It is given back, so that a
        method can derive it anew from what is left. Raises LtmError for a source that is not there.
        """
        with self.transaction():
            events = self.events(source)
            if not events:
                known = ", ".join(self.sources[:10]) or "nothing"
                raise LtmError(f"no source {source!r} in this memory; it holds: {known}")
            citing = {note for event in events for note in self.citing(event.id)}
            notes = self.delete(sorted(citing))
            self.database.run("DELETE FROM events WHERE row = ? AND source = ?", (self.row, source))
        return Forgotten(events, notes)

    # notes

    def add(
        self,
        text: str,
        cites: Event | Cite | Iterable[Event | Cite],
        *,
        key: str = "",
        kind: str = "note",
        about: Mapping[str, Any] | None = None,
        links: Sequence[int] = (),
    ) -> Note:
        """A new note; see `Note`. LtmError where it cites or links to what is not there."""
        with self.transaction():
            number = self._tables.next_id("note")
            note = Note(number, text, cites_of(cites), key, kind, dict(about or {}), tuple(links))
            self._check(note)
            self._tables.write_note(note)
        return note

    def put(self, note: Note) -> Note:
        """Write a note that is there anew: `row.put(replace(note, about={**note.about, "seen": 2}))`."""
        with self.transaction():
            number, before = self._tables.find(note.id)
            as_before = (before.searched, before.kind) == (note.searched, note.kind)
            self._check(note)
            self._tables.take_out(number, before, keep_vector=as_before)
            self._tables.write_note(note, number)
            if not as_before:
                self._vectors.drop(self.row)
        return note

    def delete(self, notes: Iterable[int]) -> list[Note]:
        """Delete notes, with all links to them; what they were."""
        with self.transaction():
            found = [self._tables.find(note) for note in notes]
            for number, note in found:
                self._tables.take_out(number, note)
                self._tables.unlink(note.id)
            if found:
                self._tables.erase_words()
                self._vectors.drop(self.row)
        return [note for _, note in found]

    def note(self, note: int) -> Note:
        """One note; LtmError where it is not there (any more)."""
        return self._tables.find(note)[1]

    def notes(self, kind: str | None = None, ids: Sequence[int] | None = None) -> list[Note]:
        """All notes in the order they were made, those of a kind, or those of these ids that are there, in their
        order."""
        if ids is not None:
            return self._tables.notes_of_ids(ids)
        return self._tables.notes() if kind is None else self._tables.notes("AND kind = ?", (kind,))

    def citing(self, event: int) -> list[int]:
        """The ids of the notes that cite an event."""
        return self._tables.citing(event)

    def __len__(self) -> int:
        return self.database.value("SELECT count(*) FROM notes WHERE row = ?", (self.row,))

    # search

    def search(self, query: str, count: int, by: By = "hybrid", kind: str | None = None) -> list[Found]:
        """The notes that fit a query best, best first.

        by: "words" (BM25 over stemmed words), "meaning" (cosine of the encoder's vectors) or "hybrid" (both, fused by
        rank); scores are the BM25 sum, the cosine and the sum of reciprocal ranks. kind: only notes of this kind.
        """
        return self._search.search(query, count, by, kind)

    def ranked(self, query: str, count: int, by: By, kind: str | None = None) -> list[tuple[int, float]]:
        """Ids and scores alone, best first, by "words" or by "meaning"; for callers that fuse lists of their own."""
        return self._search.ranked(query, count, by, kind)

    def weighed_words(self, query: str) -> WeighedWords:
        """A query's words by how rare they are among all notes, to see how much of it notes or texts hold."""
        return self._search.weighed_words(query)

    def embed(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Make the vectors that are missing, of notes that are new, changed, or were embedded by another encoder. A
        search by meaning does so first.

        Batches are transactions of their own, so that a killed process loses one. progress: vectors made and to make.
        """
        self._search.embed(progress)

    # the whole row

    def dump(self) -> dict[str, list]:
        """Events and notes as plain values, equal for equal rows; vectors and indexes, which are made of them, are
        not among them."""
        with self.transaction():
            return {"events": list(map(_plain, self.events())), "notes": list(map(_plain, self.notes()))}

    def clear(self, events: bool = True) -> None:
        """Delete everything, or (events False) everything that was derived; ids are counted from 0 again."""
        with self.transaction():
            self.delete([note.id for note in self.notes()])
            self.database.run("UPDATE rows SET next_note = 0 WHERE row = ?", (self.row,))
            if events:
                self.database.run("DELETE FROM events WHERE row = ?", (self.row,))
                self.database.run("UPDATE rows SET next_event = 0 WHERE row = ?", (self.row,))

    def copy_to(self, other: NoteRow) -> None:
        """Write everything to an empty row, ids and vectors as they are here."""
        with self.transaction(), other.transaction():
            self._tables.copy_to(other._tables)

    def _check(self, note: Note) -> None:
        """LtmError for a note that cites or links to what is not there, or holds what is no text."""
        check_text(note.text + note.key, "a note")
        for cite in note.cites:
            length = self._tables.num_chars(cite.event)
            if length is None or not 0 <= cite.start <= cite.end <= length:
                has = "is not in this row" if length is None else f"has {length}"
                raise LtmError(f"a note cites characters {cite.start} to {cite.end} of event {cite.event}, which {has}")
        if note.links and len(self._tables.notes_of_ids(note.links)) < len(note.links):
            raise LtmError(f"a note links to {list(note.links)}, which are not all in this row")


def _plain(record: Event | Note) -> dict[str, Any]:
    """A record as JSON values."""
    plain = {**vars(record), "about": dict(record.about)}
    if isinstance(record, Note):
        plain["cites"] = [[cite.event, cite.start, cite.end] for cite in record.cites]
        plain["links"] = list(record.links)
    return plain
