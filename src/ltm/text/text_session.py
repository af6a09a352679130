"""TextSession: the verbs of a `Session` for methods that remember text, and the choice between the two."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.bank.results import DocumentInfo
from ltm.configs import NUM_PASSAGES
from ltm.data.documents import check_text
from ltm.data.passages import AnswerTrace, Passage, TracedToken
from ltm.errors import LtmError
from ltm.methods.registry import config_from_options, method_class
from ltm.methods.text.base import TextMemory
from ltm.notes.records import Event
from ltm.notes.store import NoteStore
from ltm.notes.writer import Message
from ltm.text.answer import Answer
from ltm.text.asker import FOR_ONE, NO_PART, only_asking
from ltm.text.asking import Asking, check_given, prompt_text, split_options
from ltm.text.generation import OnText, Sampling
from ltm.text.means import DEFAULT_BACKBONE, Means
from ltm.text.reading import ReadProgress
from ltm.text.recall import Recalled, RecallMode, given_passages
from ltm.text.session import Session
from ltm.text.token_rules import TokenRule

if TYPE_CHECKING:
    from ltm.backbone import Backbone

_WORD = re.compile(r"\S+")


def open_session(path: str | Path | None = None, method: str | None = None, **opening: Any) -> Session | TextSession:
    """A session on a memory, or on one to be made: of the kind that its method speaks. Arguments as `Session.open`.

    >>> open_session("moby.notes", method="rag").ask("Who is Queequeg?").passages[0]  # doctest: +SKIP
    """
    kind: Any = TextSession if is_text_memory(path, method) else Session
    return kind.open(path, method=method, **opening)


def is_text_memory(path: str | Path | None, method: str | None) -> bool:
    """Whether a memory that is there, or one that a method would make, is one of text."""
    if path is not None and NoteStore.exists(path):
        return True
    return method is not None and method_class(method).speaks == "text"


class TextSession:
    """A text memory with its store, spoken to as a `Session` is; from several threads, too.

    path: the directory of the store, where everything is written at once; None keeps it in this process. A document is
    a source of the log, a text or a conversation; its `num_tokens` are words, which need no tokenizer, its `num_chunks`
    notes.

    >>> session = TextSession.open("moby.notes", method="rag")  # doctest: +SKIP
    >>> session.read(open("moby.txt").read(), "moby.txt"); session.ask("Who is Queequeg?").text  # doctest: +SKIP
    """

    def __init__(self, method: TextMemory, path: str | Path | None = None):
        self.method, self.path = method, None if path is None else Path(path)
        self.memory = method.new_memory() if self.path is None else method.open_memory(self.path)

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        backbone: Backbone | str | None = None,
        method: str | None = None,
        sidenet: str | Path | None = None,
        device: str | None = None,
        **options: Any,
    ) -> TextSession:
        """A session on a store, or on an empty one; the method and what shapes its notes are as the store has them.

        backbone: what writes; by a name, loaded at the first answer. options: fields of the method's config. Raises
        LtmError for what does not fit the store.
        """
        made = _made_by(path)
        if made is None and method is None:
            raise LtmError("no method was named; give one that remembers text, such as rag")
        if made is not None and method not in (None, made["name"]):
            raise LtmError(f"{path} was made by method {made['name']}; leave --method {method} out, or read anew")
        name = str(made["name"] if made is not None else method)
        if sidenet is not None:
            raise LtmError(f"method {name} is not trained, so it takes no weights ({sidenet}); leave them out")
        chosen: Any = method_class(name)
        shaped = {} if made is None else made["options"]
        config = config_from_options(chosen.config_class, {**shaped, **options}, f"method {name}")
        return cls(chosen.open(config, Means(backbone or DEFAULT_BACKBONE, device=device)), path)

    # the memory

    @property
    def window(self) -> int | None:
        """Tokens that stand before the writer's eyes at once; None: no limit, or none that it tells."""
        return getattr(self.method.means.writer, "window", None)

    @property
    def capacity(self) -> None:
        """Of what can be read there is no limit."""

    @property
    def recall_modes(self) -> tuple[RecallMode, ...]:
        """Passages are all there is of a memory of text; both are the same."""
        return "text", "off"

    @property
    def documents(self) -> list[DocumentInfo]:
        """What was read or kept, in order; a conversation is one."""
        return [self._info(event) for event in self._named()]

    def read(
        self,
        text: str,
        name: str,
        path: str | Path | None = None,
        progress: Callable[[ReadProgress], None] | None = None,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> DocumentInfo:
        """Take a text in as the document `name`, whole or, if it fails, not at all.

        One of this name is left as it is if its text is the same, LtmError otherwise. path: also save to that
        directory. ranges: the characters that are to be remembered, not to be had here.
        """
        check_text(name, "the name")
        text = check_text(text, name)
        if ranges is not None:
            raise LtmError(f"method {self.method.name} remembers whole texts; leave ranges out, or cut {name} before")
        for known in self.memory[0].events(name):
            if known.text != text:
                raise LtmError(
                    f"this memory holds another text called {name}; delete that one first, or rename the new one"
                )
            return self._info(known)
        told = None if progress is None else self._told(progress, name, text)
        event = self.method.remember(text, name, role="document", memory=self.memory, progress=told)
        if path is not None:
            self.memory.save(path)
        assert event is not None
        return self._info(event)

    def keep(self, turns: Sequence[Message], name: str) -> None:
        """Take a conversation in, each turn with its role, under a name by which it can be deleted."""
        with self.memory.undone_on_failure():
            for turn in turns:
                self.method.remember(turn, name, memory=self.memory)

    def delete(self, document: str | int) -> DocumentInfo:
        """Remove a document, by name or id, and all that was derived from it, from memory and disk. Returns what it
        was."""
        for event in self._named():
            if document in (event.source, event.id):
                info = self._info(event)
                self.method.forget(event.source, memory=self.memory)
                return info
        names = ", ".join(event.source for event in self._named()) or "nothing"
        raise LtmError(f"no document {document!r} in this memory; it holds: {names}")

    def reset(self) -> None:
        """Forget everything that was read, on the disk, too."""
        self.memory.reset()

    def save(self, path: str | Path | None = None) -> Path:
        """Write the store to `path`; where it was opened from (None) it is on the disk already."""
        directory = self.path if path is None else Path(path)
        if directory is None:
            raise LtmError("this session was opened without a directory; give save() a path")
        self.memory.save(directory)
        return directory

    def search(self, query: str, count: int) -> list[Passage]:
        """As `Session.search`: what the notes that fit best cite."""
        notes = self.memory.row(0, lambda: self.method.means.encoder)
        found = notes.search(query, count, "hybrid" if self.method.searches_by_meaning else "words")
        return self.method.passages(found, memory=self.memory)

    # text in, text out

    def ask(
        self,
        question: str,
        *,
        history: Sequence[Message] = (),
        given: Sequence[str] | None = None,
        trace: bool = False,
        on_text: OnText | None = None,
        leave_out: Collection[str] = (),
        rules: Sequence[TokenRule] = (),
        **options: Any,
    ) -> Answer:
        """Answer a question from what is remembered; arguments as `Session.ask`, but that passages are all there is of
        a memory of text (recall="memory" is refused), and that their number is the method's own option.

        The answer's passages are what was recalled for it, whether the writer used it or not, weighted by how well it
        fits the question.
        """
        check_text(question, "the question")
        asking, sampling = split_options(options)
        chosen = Sampling(**sampling)
        sampling.pop("max_new_tokens", None)
        if rules:
            sampling["rules"] = rules
        usage, started = self.method.means.writer.usage, time.perf_counter()
        prompt_tokens, new_tokens = usage.prompt_tokens, usage.new_tokens
        put = self._put(question, history, given, asking)
        reply = self.method.reply(
            **put, leave_out=leave_out, max_tokens=chosen.max_new_tokens, on_text=on_text, **sampling
        )
        seconds = time.perf_counter() - started
        found = self.method.passages(reply.found, memory=self.memory)
        shown = found if trace else []
        recalled = Recalled(found, found) if given is None else given_passages(given)
        return Answer(
            reply.text,
            self._tokens(reply.text),
            shown,
            usage.prompt_tokens - prompt_tokens,
            usage.new_tokens - new_tokens < chosen.max_new_tokens,
            seconds,
            AnswerTrace(tokens=[TracedToken(reply.text, 0.0, [])]) if trace else AnswerTrace(),
            encoded_tokens=usage.prompt_tokens - prompt_tokens,
        ).after(recalled)

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        given: Sequence[Sequence[str]] | None = None,
        batch_size: int = 8,
        max_new_tokens: int = 128,
        **options: Any,
    ) -> list[Answer]:
        """As `Session.ask_all`, one after another: a writer gets one prompt at a time, whatever the batch_size."""
        only_asking(options, FOR_ONE)
        check_given(given, questions)
        return [
            self.ask(one, given=None if given is None else given[n], max_new_tokens=max_new_tokens, **options)
            for n, one in enumerate(questions)
        ]

    def answer_likelihoods(
        self, question: str, answers: Sequence[str], *, given: Sequence[str] | None = None, **options: Any
    ) -> list[float]:
        """As `Session.answer_likelihoods`; WriterError from a writer that does not tell them."""
        _, prompt = self.method.prompt(**self._put(question, (), given, only_asking(options, NO_PART)))
        return self.method.means.writer.score(prompt, answers)

    def continue_text(self, text: str, **_: Any) -> Answer:
        """Not to be had of a method that speaks in messages."""
        raise LtmError(
            f"method {self.method.name} answers questions and does not go on from a text; leave --continue out, or "
            "take a method that reads tokens, such as longmem"
        )

    # helpers

    def _put(
        self, question: str, history: Sequence[Message], given: Sequence[str] | None, asking: Asking
    ) -> dict[str, Any]:
        """How a question is put, as the method takes it: messages, what is looked for, and where."""
        self._check(asking)
        if not question.strip():
            raise LtmError("the question is empty; ask something")
        asked = prompt_text(question, given_passages(given or ()).shown, asking)
        memory = self.memory if given is None and asking.in_window else None
        return {
            "messages": [*history, {"role": "user", "content": asked}],
            "query": asking.query or question,
            "memory": memory,
        }

    def _check(self, asking: Asking) -> None:
        """Refuse what a memory of text has not."""
        name = self.method.name
        if asking.recall == "memory":
            raise LtmError(f"method {name} remembers text alone; use recall='text', or 'off' for nothing of it")
        if asking.num_passages != NUM_PASSAGES:
            raise LtmError(f"how many passages {name} shows is its own option: --method {name}:num_passages=N")
        if asking.min_confidence:
            raise LtmError(f"method {name} gives no confidence; leave min_confidence out")

    def _named(self) -> list[Event]:
        """The first event of each source that has a name."""
        first: dict[str, Event] = {}
        for event in self.memory[0].events():
            first.setdefault(event.source, event)
        return [event for source, event in first.items() if source]

    def _info(self, event: Event) -> DocumentInfo:
        """A source, by its first event."""
        events = self.memory[0].events(event.source)
        words, chars = (sum(map(count, (one.text for one in events))) for count in (num_words, len))
        notes = {note for one in events for note in self.memory[0].citing(one.id)}
        return DocumentInfo(event.id, event.source, 0, words, len(notes), chars, complete=True)

    def _told(self, progress: Callable[[ReadProgress], None], name: str, text: str) -> Callable[[int, int], None]:
        words = num_words(text)

        def tell(made: int, to_make: int) -> None:
            share = made / max(to_make, 1)
            progress(ReadProgress(name, int(words * share), int(len(text) * share), len(text), self.memory.nbytes))

        return tell

    def _tokens(self, text: str) -> list[int]:
        """The answer's tokens; none from a writer that has no tokenizer."""
        tokenizer = getattr(self.method.means.writer, "tokenizer", None)
        return [] if tokenizer is None else tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def num_words(text: str) -> int:
    """Runs without white space."""
    return len(_WORD.findall(text))


def _made_by(path: str | Path | None) -> dict[str, Any] | None:
    """The method's entry of a store on disk; None where there is none."""
    if path is None or not NoteStore.exists(path):
        return None
    store = NoteStore.open(path)
    try:
        return store.facts.get("method")
    finally:
        store.close()
