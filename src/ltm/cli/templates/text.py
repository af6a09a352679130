"""NewMethod: what is noted of a text, which notes are found again, and how the writer gets them.

(Authors, year, arXiv number.)

What differs from the paper and its released code:

- As it stands: every text is a note of its own; those most like the question stand before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ltm.methods.registry import register
from ltm.methods.text.base import TextFields, TextMemory
from ltm.notes.records import Event, Found
from ltm.notes.row import NoteRow
from ltm.notes.writer import Message, Messages
from ltm.registry import Card


@dataclass(frozen=True)
class NewMethodConfig(TextFields):
    """The paper's name. Raises ConfigError with every problem of the values together."""

    num_notes: int = 5
    """Notes put before a question (paper: ...)."""

    LEAST = {"num_notes": 1}

    @classmethod
    def tiny(cls) -> NewMethodConfig:
        """Nothing to fetch, for the contract tests."""
        return cls(encoder="hash", num_notes=2)


@register("new_method")
class NewMethod(TextMemory):
    """See the module's text and `NewMethodConfig`.

    >>> method = NewMethod.open(NewMethodConfig(), Means())  # doctest: +SKIP
    >>> method.remember("The key is under the mat.", source="letter")  # doctest: +SKIP
    >>> method.reply([{"role": "user", "content": "Where is the key?"}]).text  # doctest: +SKIP
    """

    config_class = NewMethodConfig
    card = Card("Authors, year, arXiv number", "what it promises", "what is otherwise here")

    def take_in(self, event: Event, notes: NoteRow) -> None:
        """Derive notes from an event that was just logged; each cites what it came from."""
        notes.add(event.text, event)

    def look(self, query: str, notes: NoteRow) -> list[Found]:
        """The notes that help with a question, best first."""
        return notes.search(query, self.method_config.num_notes)

    def compose(self, messages: Messages, found: Sequence[Found], notes: NoteRow) -> list[Message]:
        """The writer's prompt; what it recalls is a message of its own, which is never remembered in turn."""
        recalled = "What you remember:\n\n" + "\n\n".join(one.note.text for one in found)
        return [*messages[:-1], {"role": "user", "content": recalled, "recalled": True}, messages[-1]]
