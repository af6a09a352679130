"""What a store of notes holds: events, verbatim, and notes that cite them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ltm.errors import LtmError


@dataclass(frozen=True)
class Cite:
    """Characters start..end of an event's text: where a note has something from."""

    event: int
    start: int
    end: int


@dataclass(frozen=True)
class Event:
    """What was said or read, verbatim; never rewritten.

    id: counted within its row, never given twice. source: a document's or conversation's name, by which it is
    forgotten. role: "document", "user", "assistant" or a speaker's name. time: ISO 8601. about: plain JSON values.
    """

    id: int
    source: str
    role: str
    text: str
    time: str
    about: Mapping[str, Any] = field(default_factory=dict)

    def cite(self, start: int = 0, end: int | None = None) -> Cite:
        """Characters of this event; all of them by default."""
        return Cite(self.id, start, len(self.text) if end is None else end)


@dataclass(frozen=True)
class Note:
    """A record derived from events.

    id: counted within its row, never given twice. text: what is shown to a reader. cites: where it comes from, at
    least one event; without all of them it is not kept. key: what is searched by words and by meaning, "": the text.
    kind: a method's own word for its sorts of notes. about: plain JSON values. links: ids of other notes; one to a
    note that goes is taken off.
    """

    id: int
    text: str
    cites: tuple[Cite, ...]
    key: str = ""
    kind: str = "note"
    about: Mapping[str, Any] = field(default_factory=dict)
    links: tuple[int, ...] = ()

    @property
    def searched(self) -> str:
        """What it is found by."""
        return self.key or self.text

    @property
    def events(self) -> set[int]:
        """The events that it cites."""
        return {cite.event for cite in self.cites}


@dataclass(frozen=True)
class Found:
    """A note that a search found; score: the higher the better; ranks: its place in each list it was found in, from 1
    ({"words": 2, "meaning": 1})."""

    note: Note
    score: float
    ranks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Forgotten:
    """What a forgotten source took along: its events, and every note that cited one of them."""

    events: list[Event]
    notes: list[Note]


def cites_of(given: Event | Cite | Iterable[Event | Cite]) -> tuple[Cite, ...]:
    """Citations from whole events or parts of them; LtmError for none: such a note could not be forgotten."""
    parts = [given] if isinstance(given, (Event, Cite)) else list(given)
    if not parts:
        raise LtmError("a note cites nothing; give the events it comes from")
    return tuple(part.cite() if isinstance(part, Event) else part for part in parts)
