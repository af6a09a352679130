"""The tables of one row of a store of notes: records into SQL and back. No rules but what the tables need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ltm.errors import LtmError
from ltm.notes.database import Database
from ltm.notes.records import Cite, Event, Note

_EVENT = "id, source, role, text, time, about"
_NOTE = "number, id, kind, key, about, text"
_LISTED = 500
"""Ids that a statement names one by one; of more, all between the first and the last are read."""


class RowTables:
    """Reads and writes of one row. Whoever calls several that belong together opens a transaction around them."""

    def __init__(self, database: Database, row: int):
        self.database, self.row, self.words = database, row, f"words_{row}"

    def next_id(self, what: str) -> int:
        """The next id of an "event" or a "note"; it is taken with this."""
        value = self.database.value(f"SELECT next_{what} FROM rows WHERE row = ?", (self.row,))
        self.database.run(f"UPDATE rows SET next_{what} = next_{what} + 1 WHERE row = ?", (self.row,))
        return value

    # events

    def write_event(self, event: Event) -> None:
        values = (event.source, event.role, event.time, json_of(event.about), len(event.text), event.text)
        self.database.run(
            "INSERT INTO events (row, id, source, role, time, about, chars, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self.row, event.id, *values),
        )

    def events(self, which: str = "", values: Sequence[Any] = ()) -> list[Event]:
        """Events in order; which: more of the WHERE clause."""
        rows = self.database.run(f"SELECT {_EVENT} FROM events WHERE row = ? {which} ORDER BY id", (self.row, *values))
        return [
            Event(note, source, role, text, time, json.loads(about)) for note, source, role, text, time, about in rows
        ]

    def num_chars(self, event: int) -> int | None:
        """The length of an event's text; None where there is no such event."""
        return self.database.value("SELECT chars FROM events WHERE row = ? AND id = ?", (self.row, event))

    # notes

    def find(self, note: int) -> tuple[int, Note]:
        """A note and its number in the tables; LtmError where it is not there."""
        rows = self.database.run(f"SELECT {_NOTE} FROM notes WHERE row = ? AND id = ?", (self.row, note))
        if not rows:
            raise LtmError(f"note {note} is not in this row; it was never made, or deleted")
        return rows[0][0], self._notes_of(rows)[0]

    def notes(self, which: str = "", values: Sequence[Any] = ()) -> list[Note]:
        """Notes in order; which: more of the WHERE clause."""
        rows = self.database.run(f"SELECT {_NOTE} FROM notes WHERE row = ? {which} ORDER BY id", (self.row, *values))
        return self._notes_of(rows)

    def notes_of_ids(self, ids: Sequence[int]) -> list[Note]:
        """The notes of these ids that are there, in the order of the ids."""
        marks = ",".join("?" * len(ids))
        by_id = {note.id: note for note in self.notes(f"AND id IN ({marks})", ids)}
        return [by_id[note] for note in ids if note in by_id]

    def citing(self, event: int) -> list[int]:
        """The ids of the notes that cite an event."""
        rows = self.database.run(
            "SELECT DISTINCT note FROM cites WHERE row = ? AND event = ? ORDER BY note", (self.row, event)
        )
        return [note for (note,) in rows]

    def write_note(self, note: Note, number: int | None = None) -> int:
        """Put a note into every table and index but that of vectors; returns its number."""
        self.database.run(
            "INSERT INTO notes (number, row, id, kind, key, about, text) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (number, self.row, note.id, note.kind, note.key, json_of(note.about), note.text),
        )
        written: int = self.database.value("SELECT last_insert_rowid()")
        cites = [(self.row, note.id, place, own.event, own.start, own.end) for place, own in enumerate(note.cites)]
        links = [(self.row, note.id, place, other) for place, other in enumerate(note.links)]
        self.database.run_many("INSERT INTO cites VALUES (?, ?, ?, ?, ?, ?)", cites)
        self.database.run_many("INSERT INTO links VALUES (?, ?, ?, ?)", links)
        self.database.run(f"INSERT INTO {self.words} (rowid, searched) VALUES (?, ?)", (written, note.searched))
        return written

    def take_out(self, number: int, note: Note, keep_vector: bool = False) -> None:
        """Take a note out of every table and index; links to it stay."""
        self.database.run(
            f"INSERT INTO {self.words} ({self.words}, rowid, searched) VALUES ('delete', ?, ?)", (number, note.searched)
        )
        for name in ("cites", "links"):
            self.database.run(f"DELETE FROM {name} WHERE row = ? AND note = ?", (self.row, note.id))
        self.database.run("DELETE FROM notes WHERE number = ?", (number,))
        if not keep_vector:
            self.database.run("DELETE FROM vectors WHERE number = ?", (number,))

    def unlink(self, note: int) -> None:
        """Take off the links to a note."""
        self.database.run("DELETE FROM links WHERE row = ? AND other = ?", (self.row, note))

    def erase_words(self) -> None:
        """Rid the word index of what was taken out: until its parts are merged it holds the words of deleted notes,
        beside marks that they are deleted."""
        self.database.run(f"INSERT INTO {self.words} ({self.words}) VALUES ('optimize')")

    # the whole row

    def copy_to(self, other: RowTables) -> None:
        """Write everything to an empty row, ids and vectors as they are here."""
        vectors: dict[int, tuple[str, bytes]] = {
            note: (encoder, vector)
            for note, encoder, vector in self.database.run(
                "SELECT notes.id, encoder, vector FROM vectors JOIN notes USING (number) WHERE row = ?", (self.row,)
            )
        }
        for event in self.events():
            other.write_event(event)
        for note in self.notes():
            number = other.write_note(note)
            if note.id in vectors:
                other.database.run("INSERT INTO vectors VALUES (?, ?, ?)", (number, *vectors[note.id]))
        counters = self.database.run("SELECT next_event, next_note FROM rows WHERE row = ?", (self.row,))[0]
        other.database.run("UPDATE rows SET next_event = ?, next_note = ? WHERE row = ?", (*counters, other.row))

    # helpers

    def _notes_of(self, rows: Sequence[tuple]) -> list[Note]:
        """Notes of rows of the table, with what they cite and link to."""
        ids = [row[1] for row in rows]
        cites = self._grouped("cites", "event, first, last", ids)
        links = self._grouped("links", "other", ids)
        return [
            Note(
                note,
                text,
                tuple(Cite(*cite) for cite in cites.get(note, ())),
                key,
                kind,
                json.loads(about),
                tuple(other for (other,) in links.get(note, ())),
            )
            for _, note, kind, key, about, text in rows
        ]

    def _grouped(self, table: str, columns: str, ids: Sequence[int]) -> dict[int, list[tuple]]:
        """Rows of a table that belong to notes, by note, in one statement."""
        if not ids:
            return {}
        many = len(ids) > _LISTED
        which = "BETWEEN ? AND ?" if many else f"IN ({','.join('?' * len(ids))})"
        rows = self.database.run(
            f"SELECT note, {columns} FROM {table} WHERE row = ? AND note {which} ORDER BY note, place",
            (self.row, *((min(ids), max(ids)) if many else ids)),
        )
        grouped: dict[int, list[tuple]] = {}
        for note, *rest in rows:
            grouped.setdefault(note, []).append(tuple(rest))
        return grouped


def json_of(about: Mapping[str, Any]) -> str:
    """Plain values as JSON, equal for equal ones; LtmError for others."""
    try:
        return json.dumps(dict(about), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LtmError(f"about={about!r:.80} is not made of plain JSON values ({error})") from error
