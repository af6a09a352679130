"""Session: text in, text out, with provenance. What the command line, a server and notebooks call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from ltm.backbone import load_backbone
from ltm.bank import Bank, DocumentInfo
from ltm.bank.disk.manifest import Head
from ltm.bank.disk.manifest_file import read_head
from ltm.bank.storage import STORAGE_OPTIONS
from ltm.configs import DEFAULT_BACKBONE, DEFAULT_METHOD, config_from_options
from ltm.data.documents import check_text
from ltm.data.passages import Passage
from ltm.data.tokens import token_ids
from ltm.errors import LtmError
from ltm.memory import LEFT_OUT, LeftOut, Memory
from ltm.methods import Reader, method_class
from ltm.methods.banks import method_entry
from ltm.methods.opening import open_method
from ltm.streams.scoring import score_stream
from ltm.tasks.perplexity import DocumentScore, PerplexityResult
from ltm.text.answer import Answer
from ltm.text.asker import Asker
from ltm.text.generation import OnText, Sampling, plain_ids
from ltm.text.reading import OnProgress, Ranges, read_document
from ltm.text.recall import PassageRecall, RecallMode
from ltm.text.session_memory import SessionMemory, no_bank
from ltm.text.token_rules import TokenRule


class Session:
    """A method with its memory, spoken to in text; from several threads, too, which take turns.

    method: any of `ltm.methods`; deleting and saving need one with a bank, and what is read without one lasts as long
    as the session. tokenizer: None takes the backbone's. path: the directory of the bank, where `read` and `save`
    write; None keeps the memory in this process.
    memory: what this session reads into and answers with, so that one method serves many; left out, the method's own.
    encoder: what finds passages by meaning, "auto" for MiniLM where it is installed, None for none.
    Raises LtmError where there is no tokenizer.

    >>> session = Session.open(backbone="smollm2-135m")  # doctest: +SKIP
    >>> session.read(open("moby.txt").read(), "moby.txt")  # doctest: +SKIP
    >>> session.ask("Who is Queequeg?", trace=True).passages[0]  # doctest: +SKIP
    """

    def __init__(
        self,
        method: Reader,
        tokenizer: Any = None,
        path: str | Path | None = None,
        memory: Memory | LeftOut = LEFT_OUT,
        encoder: str | None = "auto",
    ):
        self.method = method
        self.tokenizer: Any = method.backbone.tokenizer if tokenizer is None else tokenizer
        if self.tokenizer is None:
            raise LtmError(
                f"backbone {method.backbone.name} has no tokenizer; give one: Session(method, tokenizer=...)"
            )
        self._memory = SessionMemory(method, memory, None if path is None else Path(path))
        self._asker = Asker(self._memory, self.tokenizer, encoder)

    @classmethod
    def open(
        cls,
        bank_path: str | Path | None = None,
        backbone: str | None = None,
        method: str | None = None,
        sidenet: str | Path | None = None,
        device: str | None = None,
        **options: Any,
    ) -> Session:
        """A session on a saved bank, or on an empty memory.

        bank_path: a directory that `save` wrote, or one that is to be made; the backbone is loaded by the name and in
        the dtype that the bank was made with. backbone: a name for `load_backbone`; None: the bank's, else
        smollm2-135m. method: None: the bank's, else longmem. sidenet: what `ltm train` wrote; None: what the bank was
        read with, else the SideNet shipped for this backbone. options: fields of the method's config; those that
        shape a bank are as it has them. Raises LtmError for anything that does not fit together.

        >>> Session.open("moby.bank").ask("Who is Queequeg?").text  # doctest: +SKIP
        """
        path = None if bank_path is None else Path(bank_path)
        method = method_of(path, method)
        if path is not None and not method_class(method).keeps_bank:
            raise LtmError(no_bank(method))
        if path is None or not Bank.exists(path):
            loaded = load_backbone(backbone or DEFAULT_BACKBONE, device=device)
            return cls(open_method(method, loaded, sidenet, **options), path=path)
        saved = read_head(path)
        options = _options_of(saved, method) | options
        sidenet = _weights_of(saved, path) if sidenet is None else sidenet
        dtype = saved.fingerprint.dtype if saved.fingerprint else "auto"
        loaded = load_backbone(backbone or saved.backbone or DEFAULT_BACKBONE, dtype=dtype, device=device)
        bank = Bank.load(path, fingerprint=loaded.fingerprint, device=loaded.device)
        session = cls(open_method(method, loaded, sidenet, **options), path=path)
        session.method.use_bank(bank)
        bank.method = bank.method or method_entry(session.method)  # a bank of version 2 does not name it
        return session

    # the memory

    @property
    def path(self) -> Path | None:
        """The directory of the bank; None: there is none."""
        return self._memory.path

    @property
    def memory(self) -> Any:
        """What this session reads into and answers with."""
        return self._memory.held

    @property
    def bank(self) -> Bank:
        """The bank in which the memory lies, made at first use. Raises LtmError where the method keeps none."""
        return self._memory.begun_bank()

    @property
    def window(self) -> int | None:
        """Tokens that stand before the model's eyes at once; None: no limit."""
        limits = (self.method.new_stream().window, self.capacity)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def capacity(self) -> int | None:
        """Tokens that can be read and asked about in all; None: no limit, older ones may be forgotten."""
        return self.method.max_stream_tokens

    @property
    def recall_modes(self) -> tuple[RecallMode, ...]:
        """What of the past an answer can have here (`Asking.recall`)."""
        return get_args(RecallMode)

    @property
    def documents(self) -> list[DocumentInfo]:
        """What is in the memory, in the order it was read."""
        with self._memory.alone():
            return self._memory.documents

    @property
    def recall(self) -> PassageRecall:
        """What finds passages in the texts that were read, up to date with them."""
        return self._asker.recall

    def read(
        self,
        text: str,
        name: str,
        path: str | Path | None = None,
        progress: OnProgress | None = None,
        ranges: Ranges | None = None,
    ) -> DocumentInfo:
        """Take a text in as the document `name`.

        path: bank directory to save to every few thousand tokens, so that a read that is killed leaves what was
        complete; None: the session's own, if it has one. A document of this name that was read to its end is left
        as it is if its text is the same, and LtmError otherwise; one that was cut off is read anew. A text shorter
        than a chunk is remembered as a short chunk; one without any token is refused. ranges: the characters that are
        to be remembered, found and shown; None: all. BankError where another process writes to the directory; none can
        while this reads. A read that fails leaves the memory as it was; what it had saved stays in the directory,
        incomplete, until the next save.
        """
        check_text(name, "the name")
        check_text(text, name)
        directory = self.path if path is None else Path(path)
        with self._memory.alone():
            return read_document(self._memory, self.tokenizer, text, name, directory, progress, ranges)

    def keep(self, turns: Sequence[dict[str, str]], name: str) -> None:
        """Take a conversation in, as a document."""
        self.read("".join(f"{turn['role'].capitalize()}: {turn['content'].strip()}\n\n" for turn in turns), name)

    def delete(self, document: str | int) -> DocumentInfo:
        """Remove a document, by name or id, from the memory; `save` removes it from the disk. Returns what it was."""
        with self._memory.alone():
            matching = [info for info in self.documents if document in (info.name, info.id)]
            if not matching:
                names = ", ".join(sorted({info.name for info in self.documents})) or "nothing"
                raise LtmError(f"no document {document!r} in this memory; it holds: {names}")
            if len(matching) > 1:
                ids = ", ".join(str(info.id) for info in matching)
                raise LtmError(f"{len(matching)} documents are called {document!r}; give the id of one: {ids}")
            self.bank.delete_document(matching[0].id)
            return matching[0]

    def save(self, path: str | Path | None = None) -> Path:
        """Write the memory to `path` (None: where it was opened from); only what is new is written."""
        directory = self.path if path is None else Path(path)
        if directory is None:
            raise LtmError("this session was opened without a bank; give save() a path")
        with self._memory.alone():
            self.bank.save(directory)
            self.recall.save(directory, self.bank)
        self._memory.path = directory
        return directory

    def search(self, query: str, count: int) -> list[Passage]:
        """So many passages of what was read that fit a query best, best first, by words and, where there is an encoder,
        by meaning; no model is asked. A passage's weight is the higher the better, among those of one query.

        >>> session.search("Who is Queequeg?", 3)[0].document  # doctest: +SKIP
        """
        with self._memory.alone():
            return self.recall.search(query, count)

    # text in, text out

    def ask(
        self,
        question: str,
        *,
        history: Sequence[dict[str, str]] = (),
        given: Sequence[str] | None = None,
        trace: bool = False,
        on_text: OnText | None = None,
        leave_out: Collection[str] = (),
        rules: Sequence[TokenRule] = (),
        **options: Any,
    ) -> Answer:
        """Answer a question with what is remembered: passages found for it are put into the window before it, and the
        memory is attached.

        history: earlier turns, {"role": "user" or "assistant", "content": ...}, in the model's chat template or, where
        it has none, line by line before the question; given: passages to put before the question in place of those that
        are looked up; trace: find the passages that attention used; on_text: gets the text as it comes; leave_out:
        documents of which no passage is shown, such as those that the history says anyway; rules: what has a say in
        each token (`ltm.text.token_rules`), fresh ones for each answer; options: fields of `Asking` (recall,
        num_passages, instruction, show_confidence, min_confidence) and of `Sampling` (max_new_tokens, ...). A
        repetition penalty counts the answer's own tokens alone: an answer from a passage repeats it.
        """
        check_text(question, "the question")
        with self._memory.alone():
            return self._asker.ask(question, history, given, trace, on_text, leave_out, options, rules)

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        given: Sequence[Sequence[str]] | None = None,
        batch_size: int = 8,
        max_new_tokens: int = 128,
        **options: Any,
    ) -> list[Answer]:
        """Answer several questions in batches, each alone and greedily; options: fields of `Asking`.

        given: for each question the passages that stand before it in place of those that are looked up. The answers are
        those of `ask`, up to the rounding of a batch.
        """
        with self._memory.alone():
            return self._asker.ask_all(questions, given, batch_size, max_new_tokens, options)

    def answer_likelihoods(
        self, question: str, answers: Sequence[str], *, given: Sequence[str] | None = None, **options: Any
    ) -> list[float]:
        """Log-probability of each answer, in nats, as the reply to a question asked as `ask` would."""
        with self._memory.alone():
            return self._asker.likelihoods(question, answers, given, options)

    def reset(self) -> None:
        """Forget everything that was read; a directory keeps what was saved there."""
        with self._memory.alone():
            self._memory.reset()

    def continue_text(
        self, text: str, *, trace: bool = False, on_text: OnText | None = None, **sampling: Any
    ) -> Answer:
        """Go on from a text as it stands, without a chat template; arguments as for `ask`."""
        check_text(text, "the text")
        chosen = config_from_options(Sampling, sampling, "generation")
        ids = plain_ids(self.tokenizer, text)
        with self._memory.alone():
            return self._asker.go_on(ids, trace, on_text, chosen, self._memory.given)

    def perplexity(self, text: str) -> PerplexityResult:
        """How well the text is predicted, token by token, given what is remembered; the memory stays as it is."""
        ids = token_ids(self.tokenizer, text)
        if len(ids) < 2:
            raise LtmError(f"the text has {len(ids)} tokens; perplexity needs two or more")
        with self._memory.alone():
            return PerplexityResult(
                [DocumentScore("text", score_stream(self.method, ids, memory=self._memory.given))], 0.0
            )


def method_of(path: Path | None, asked: str | None) -> str:
    """The method of a memory, or the one asked for where there is none yet. Raises LtmError where the two differ."""
    made = read_head(path).method if path is not None and Bank.exists(path) else None
    if made is not None and asked not in (None, made.name):
        raise LtmError(
            f"{path} was made by method {made.name}; leave --method {asked} out, or build a memory for it from the "
            f"same texts: ltm bank rebuild {path} -o NEW --method {asked}"
        )
    return made.name if made is not None else asked or DEFAULT_METHOD


def _options_of(saved: Head, method: str) -> dict[str, Any]:
    """The fields of a method's config that are to be as a bank has them."""
    chosen = method_class(method)
    known = {field.name for field in fields(chosen.config_class)}
    noted = {} if saved.method is None else saved.method.options
    shared = {name: getattr(saved.config, name) for name in ("chunk_size", *STORAGE_OPTIONS) if name in known}
    return {name: value for name, value in noted.items() if name in chosen.bank_options} | shared


def _weights_of(saved: Head, path: Path) -> Path | None:
    """The directory of the trained weights that a bank was read with; None: those that are shipped, or none."""
    if saved.method is None or saved.method.weights is None:
        return None
    weights = Path(saved.method.weights)
    if not weights.is_dir():
        raise LtmError(f"{path} was read with the weights in {weights}, which are not there; give --sidenet")
    return weights
