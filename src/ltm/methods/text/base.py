"""TextMemory: base of every method whose memory is text, and whose words come from a writer.

The base owns the verbs: what was said or read goes into the event log, verbatim; a method derives notes from it
(`take_in`), finds those that help with a question (`look`) and puts them before it (`compose`). Everything is a
transaction, every note cites its events, and what was forgotten is gone from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from ltm.configs import Config
from ltm.data.passages import Passage
from ltm.errors import BankMismatchError, LtmError
from ltm.memory import LEFT_OUT, LeftOut, Memory
from ltm.methods.method import Method
from ltm.notes.records import Event, Forgotten, Found, Note
from ltm.notes.row import NoteRow
from ltm.notes.splitting import is_same
from ltm.notes.store import NoteStore
from ltm.notes.writer import Kind, Message, Messages, OnText, merged, write_as

if TYPE_CHECKING:
    from ltm.text.means import Means

Self = TypeVar("Self", bound="TextMemory")
Given = Memory | LeftOut | None
"""A memory that is handed in; None: none at all."""


@dataclass(frozen=True)
class TextFields(Config):
    """What every text memory lets choose; configs inherit it."""

    encoder: str = "minilm"
    """What makes vectors of texts: minilm (fetched once, 84 MB), or hash (nothing to fetch; finds similar spelling)."""
    writer: str | None = None
    """What writes: URL#MODEL of an OpenAI-compatible server; None: the backbone."""


@dataclass(frozen=True)
class Reply:
    """An answer: its text, what was recalled for it, best first, and the messages that the writer got."""

    text: str
    found: list[Found]
    prompt: list[Message]


class TextMemory(Method):
    """Base of methods on a `NoteStore`; usable from several threads, each call a whole.

    config: the method's dataclass; means: backbone, writer and encoder, loaded when first needed. `row` of each call is
    the user: rows never see each other. What a call writes is undone if it fails, by a writer's nonsense too.

    >>> method = Rag.open(RagConfig(), Means())  # doctest: +SKIP
    >>> method.remember("The key is under the mat.", source="letter")  # doctest: +SKIP
    >>> method.reply([{"role": "user", "content": "Where is the key?"}]).text  # doctest: +SKIP
    """

    speaks: ClassVar[Literal["tokens", "text"]] = "text"
    memory_class = NoteStore
    memory_options: ClassVar[tuple[str, ...]] = ("encoder",)
    """Fields of the config that shape what is written to a memory: a saved one is opened with the same."""

    def __init__(self, config: Any, means: Means):
        self.method_config = config
        self.means = means.of(config.writer, config.encoder)
        self._choosing = Lock()  # two threads that come first make one memory

    @classmethod
    def open(cls: type[Self], config: Any, means: Means) -> Self:
        """The method of a config, on the means that there are."""
        return cls(config, means)

    # what a method supplies

    def take_in(self, event: Event, notes: NoteRow) -> None:
        """Derive notes from an event that has just been logged; by default one note of all its text."""
        notes.add(event.text, event)

    def look(self, query: str, notes: NoteRow) -> list[Found]:
        """The notes that help with a query, best first."""
        raise NotImplementedError

    def compose(self, messages: Messages, found: Sequence[Found], notes: NoteRow) -> list[Message]:
        """The writer's prompt; what it recalls is a message of its own, with "recalled": True."""
        raise NotImplementedError

    def mend(self, gone: Forgotten, notes: NoteRow) -> None:
        """Derive anew what was lost with a forgotten source but came from other events, too; by default nothing."""

    @property
    def searches_by_meaning(self) -> bool:
        """Whether notes get vectors as soon as they are written."""
        return True

    def ask(self, kind: type[Kind], instruction: str, max_tokens: int = 512) -> Kind:
        """The writer's answer to an instruction as a dataclass; WriterError, which undoes the call, for nonsense."""
        return write_as(self.means.writer, kind, [{"role": "user", "content": instruction}], max_tokens)

    # the verbs

    def remember(
        self,
        turn: str | Message,
        source: str = "",
        *,
        role: str = "user",
        time: str | None = None,
        about: Mapping[str, Any] | None = None,
        memory: Given = LEFT_OUT,
        row: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Event | None:
        """Take in what was said or read.

        turn: a text, or a message, whose role counts; one that a memory recalled is never taken in again (None).
        source: the name by which it can be forgotten. time: ISO 8601, None: now. progress: called with vectors made
        and to make; whoever stops there keeps what was logged, and the next search makes the rest of them.
        """
        recalled = False
        if not isinstance(turn, str):
            recalled, message = bool(turn.get("recalled")), merged([turn])[0]
            role, turn = message["role"], message["content"]
        notes = self._notes(memory, row)
        if notes is None or recalled:
            return None
        if not turn.strip():
            raise LtmError(f"{source or 'the text'} holds no text; give it at least one word")
        if self.searches_by_meaning:
            _ = notes.encoder  # one that is not to be had is told before anything is written
        with notes.transaction():
            event = notes.append(turn, source, role, time, about)
            self.take_in(event, notes)
        if self.searches_by_meaning:
            notes.embed(progress)
        return event

    def recall(self, query: str, *, memory: Given = LEFT_OUT, row: int = 0) -> list[Found]:
        """The notes that help with a query, best first; a writer that a method asks for it may cost seconds."""
        notes = self._notes(memory, row)
        return [] if notes is None or not query.strip() else self.look(query, notes)

    def reply(
        self,
        messages: Messages,
        *,
        memory: Given = LEFT_OUT,
        row: int = 0,
        query: str | None = None,
        leave_out: Collection[str] = (),
        max_tokens: int = 256,
        on_text: OnText | None = None,
        **sampling: Any,
    ) -> Reply:
        """Answer messages, the last of them a user's, with what is remembered; nothing is remembered of it unless
        `remember` is told so. query: what is looked for; None: that last message. leave_out: sources whose notes are
        not put before the question."""
        found, prompt = self.prompt(messages, query, leave_out, memory=memory, row=row)
        text = self.means.writer.write(prompt, max_tokens=max_tokens, on_text=on_text, **sampling)
        return Reply(text, found, prompt)

    def prompt(
        self,
        messages: Messages,
        query: str | None = None,
        leave_out: Collection[str] = (),
        *,
        memory: Given = LEFT_OUT,
        row: int = 0,
    ) -> tuple[list[Found], list[Message]]:
        """What is found for messages, best first, and what the writer gets; arguments as `reply`."""
        question = question_of(messages)
        notes = self._notes(memory, row)
        asked = query or question
        found = [] if notes is None else _telling(self.look(asked, notes), asked, leave_out, notes)
        return found, list(messages) if notes is None or not found else self.compose(messages, found, notes)

    def forget(self, source: str, *, memory: Given = LEFT_OUT, row: int = 0) -> Forgotten:
        """Delete a source and all that was derived from it; LtmError for one that is not there."""
        notes = self._notes(memory, row)
        if notes is None:
            raise LtmError("memory is off; nothing can be forgotten")
        with notes.transaction():
            gone = notes.forget(source)
            self.mend(gone, notes)
        return gone

    def rebuild(self, *, memory: Given = LEFT_OUT, row: int = 0) -> None:
        """Delete what was derived and derive it anew from the log, event by event."""
        notes = self._notes(memory, row)
        if notes is None:
            return
        with notes.transaction():
            notes.clear(events=False)
            for event in notes.events():
                self.take_in(event, notes)
        if self.searches_by_meaning:
            notes.embed()

    def passages(self, found: Sequence[Found], *, memory: Given = LEFT_OUT, row: int = 0) -> list[Passage]:
        """Where found notes come from: characters of documents, each with its note's score."""
        notes = self._notes(memory, row)
        return [] if notes is None else [passage for one in found for passage in _cited(one, notes)]

    # the memory

    def new_memory(self, rows: int = 0) -> NoteStore:
        """An empty store in this process's memory, of one row or more."""
        return self._claim(NoteStore(max(rows, 1)))

    def open_memory(self, path: str | Path, rows: int = 0) -> NoteStore:
        """The store in a directory, made if there is none; what is written to it is on the disk at once."""
        return self._claim(NoteStore.open(path, max(rows, 1)))

    def check_memory(self, memory: NoteStore) -> None:
        made = memory.facts.get("method", self._entry())
        if made["name"] != self.name:
            raise BankMismatchError(
                f"this memory was made by method {made['name']}, not by {self.name}; open it with that one, or read "
                "the texts into a new memory"
            )
        differing = {
            name: value for name, value in made["options"].items() if self._entry()["options"].get(name) != value
        }
        if differing:
            told = ", ".join(f"{name}={value}" for name, value in differing.items())
            raise BankMismatchError(f"this memory was made with {told}; open it with the same, or read the texts anew")

    def _claim(self, memory: NoteStore) -> NoteStore:
        """Note in a new store which method writes it."""
        if "method" not in memory.facts:
            memory.set_fact("method", self._entry())
        self.admit(memory)
        return memory

    def _entry(self) -> dict[str, Any]:
        plain = asdict(self.method_config)
        return {"name": self.name, "options": {name: plain[name] for name in self.memory_options}}

    def _notes(self, memory: Given, row: int) -> NoteRow | None:
        with self._choosing:
            chosen = self.memory_for(memory)
        return None if chosen is None else chosen.row(row, lambda: self.means.encoder)


def question_of(messages: Messages) -> str:
    """The last message, which is to be a user's. Raises LtmError for any other."""
    if not messages or messages[-1].get("role") != "user":
        raise LtmError("the last message is not a user's; end with the question")
    if not str(messages[-1].get("content", "")).strip():
        raise LtmError("the question is empty; ask something")
    return messages[-1]["content"]


def _cited(found: Found, notes: NoteRow) -> list[Passage]:
    note: Note = found.note
    share = found.score / len(note.cites)
    return [
        Passage(event.source or None, cite.start, cite.end, event.text[cite.start : cite.end], share)
        for cite in note.cites
        for event in [notes.event(cite.event)]
    ]


def _telling(found: list[Found], query: str, leave_out: Collection[str], notes: NoteRow) -> list[Found]:
    """Those of which something can be learnt: no note that is the query itself, asked before, and none that cites
    sources to leave out alone."""
    events = {event.id for source in leave_out for event in notes.events(source)}
    return [
        one
        for one in found
        if not is_same(one.note.text, query) and not (one.note.cites and all(c.event in events for c in one.note.cites))
    ]
