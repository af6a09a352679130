"""A text memory for tests that uses everything its base offers: the writer's JSON, links, keys, and mending."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ltm.methods.text.base import TextFields, TextMemory
from ltm.registry import Card


@dataclass(frozen=True)
class DiaryConfig(TextFields):
    """Nothing to choose."""

    encoder: str = "hash"

    @classmethod
    def tiny(cls) -> DiaryConfig:
        return cls()


@dataclass(frozen=True)
class Described:
    """What the writer says of a text."""

    topic: str


class Diary(TextMemory):
    """A note of each event, with a topic from the writer and links to what is like it; and one page that retells all,
    which is written anew when something of it is forgotten."""

    name = "diary"
    config_class = DiaryConfig
    card = Card(paper="", claim="none", differs="")

    def take_in(self, event, notes):
        topic = self.ask(Described, f"Topic of: {event.text}").topic
        near = [found.note for found in notes.search(event.text, 2, kind="entry")]
        notes.add(event.text, event, kind="entry", about={"topic": topic}, links=[note.id for note in near])
        for note in near:
            notes.put(replace(note, about={**note.about, "seen": True}, cites=(*note.cites, event.cite())))
        self._retell(notes)

    def look(self, query, notes):
        return notes.search(query, 3, kind="entry")

    def compose(self, messages, found, notes):
        recalled = "\n".join(one.note.text for one in found)
        return [{"role": "system", "content": recalled, "recalled": True}, *messages]

    def mend(self, gone, notes):
        lost = {cite.event for note in gone.notes for cite in note.cites} - {event.id for event in gone.events}
        for event in notes.events():
            if event.id in lost and not [note for note in notes.notes(kind="entry") if note.cites[0].event == event.id]:
                notes.add(event.text, event, kind="entry", about={"topic": "mended"})
        self._retell(notes)

    def _retell(self, notes):
        events, old = notes.events(), notes.notes(kind="page")
        text = " ".join(event.text for event in events)
        if old and events:
            notes.put(replace(old[0], text=text, cites=tuple(event.cite() for event in events)))
        elif events:
            notes.add(text, events, kind="page")
