"""Session: text in, text out, with provenance. What the command line, a server and notebooks call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ltm.backbone import load_backbone
from ltm.bank import Bank, DocumentInfo
from ltm.bank.disk.lock import WriteLock
from ltm.bank.disk.manifest import Head
from ltm.bank.disk.manifest_file import read_head
from ltm.bank.storage import STORAGE_OPTIONS
from ltm.configs import DEFAULT_BACKBONE, DEFAULT_METHOD, config_from_options
from ltm.data.documents import check_text
from ltm.data.passages import AnswerTrace, Passage, SourceText, UsedSpan, find_passages, trace_tokens
from ltm.data.tokens import TokenBlock, token_blocks, token_ids
from ltm.errors import LtmError
from ltm.memory import LEFT_OUT, LeftOut, Memory
from ltm.methods import Reader, method_class
from ltm.methods.banks import method_entry
from ltm.methods.opening import open_method
from ltm.streams.open_stream import OpenStream
from ltm.streams.scoring import score_stream
from ltm.tasks.perplexity import DocumentScore, PerplexityResult
from ltm.tasks.scoring import greedy_tokens, score_continuations, shared_length, text_tokens
from ltm.text.asking import UNKNOWN, Asking, check_given, fitting, instruction_of, prompt_text, split_options
from ltm.text.generation import OnText, Sampling, end_tokens, generate, plain_ids, question_ids
from ltm.text.moved import Moved, words_moved
from ltm.text.prefix import KeptPrefix
from ltm.text.recall import WINDOW_SHARE, PassageRecall, Recalled

if TYPE_CHECKING:
    from ltm.methods.trace import UsedChunk

BLOCK_TOKENS = 4096
"""Tokens read between two reports of progress, rounded down to whole segments."""
SAVE_TOKENS = 8192
"""Tokens read between two saves: at most so many are lost when a read is killed."""
NUM_PASSAGES = 5
FRAME_TOKENS = 96
"""Room for a chat template, documents' names and the instruction, beside passages and question."""


@dataclass(frozen=True)
class ReadProgress:
    """How far a read is: tokens read so far, characters done and in all, bytes of the whole bank."""

    document: str
    tokens: int
    chars: int
    total_chars: int
    bank_bytes: int


@dataclass(frozen=True)
class Answer:
    """What a session answered.

    text; token_ids without the end token; passages of memory that attention used, most used first (empty without
    trace); prompt_tokens; ended: the model ended it itself (False: max_new_tokens did); seconds for finding, prompt and
    answer; trace: what each token used (empty without trace), for `ltm.text.trace_page`. found: passages that were
    looked up, best first; recalled: what of them stood in the window, in the order of the text; confidence: 0..1 that
    they hold the answer (None: nothing was looked up); moved: what each of those in the window did to the answer, most
    first (empty without trace); abstained: too little for an answer; encoded_tokens: of the
    prompt, those that had to be encoded for this answer.
    """

    text: str
    token_ids: list[int]
    passages: list[Passage]
    prompt_tokens: int
    ended: bool
    seconds: float
    trace: AnswerTrace = field(default_factory=AnswerTrace)
    found: list[Passage] = field(default_factory=list)
    recalled: list[Passage] = field(default_factory=list)
    confidence: float | None = None
    moved: list[Moved] = field(default_factory=list)
    abstained: bool = False
    encoded_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """New tokens by the seconds for prompt and answer together."""
        return len(self.token_ids) / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = asdict(replace(self, trace=AnswerTrace()))
        del plain["trace"]  # many times as long as the rest
        return {**plain, "tokens_per_second": self.tokens_per_second}


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
        self.method, self._given = method, memory
        self.tokenizer: Any = method.backbone.tokenizer if tokenizer is None else tokenizer
        self.path = None if path is None else Path(path)
        self.encoder = encoder
        self._recall: PassageRecall | None = None
        self._prefix = KeptPrefix()
        self._unnoted: list[tuple[DocumentInfo, str]] = []  # documents of a memory that does not note them
        if self.tokenizer is None:
            raise LtmError(
                f"backbone {method.backbone.name} has no tokenizer; give one: Session(method, tokenizer=...)"
            )

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
            raise LtmError(_no_bank(method))
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
    def memory(self) -> Any:
        """What this session reads into and answers with."""
        return self.method.memory if isinstance(self._given, LeftOut) else self._given

    @property
    def bank(self) -> Bank:
        """The bank in which the memory lies, made at first use. Raises LtmError where the method keeps none."""
        method, bank = self.method, self.memory.bank
        if not method.keeps_bank:
            raise LtmError(_no_bank(method.name))
        if bank is None:
            bank = self._lay_in_bank()
        bank.begin(1)
        return bank

    def _lay_in_bank(self) -> Bank:
        """A bank for a memory that can lie in one and holds nothing yet."""
        if not self.memory.is_empty:
            raise LtmError("this memory has read without noting documents; reset it, or give the session another one")
        memory: Any = self.method.memory_in(self.method.new_bank(1))
        if isinstance(self._given, LeftOut):
            self.method.memory = memory
        else:
            self._given = memory
        return memory.bank

    @property
    def window(self) -> int | None:
        """Tokens that stand before the model's eyes at once; None: no limit."""
        limits = (self.method.new_stream().window, self.method.max_stream_tokens)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def documents(self) -> list[DocumentInfo]:
        """What is in the memory, in the order it was read."""
        with self._alone():
            bank = self.memory.bank
            return [info for info, _ in self._unnoted] if bank is None else bank.documents

    def _alone(self) -> AbstractContextManager[None]:
        return self.method.alone(self._given)

    def read(
        self,
        text: str,
        name: str,
        path: str | Path | None = None,
        progress: Callable[[ReadProgress], None] | None = None,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> DocumentInfo:
        """Take a text in as the document `name`.

        path: bank directory to save to every few thousand tokens, so that a read that is killed leaves what was
        complete; None: the session's own, if it has one. A document of this name that was read to its end is left
        as it is if its text is the same, and LtmError otherwise; one that was cut off is read anew. A text shorter
        than a chunk is remembered as a short chunk; one without any token is refused. ranges: the characters that are
        to be remembered; None: all. BankError where another process writes to the directory; none can while this
        reads. A read that fails leaves the memory as it was; what it had saved stays in the directory, incomplete,
        until the next save.
        """
        check_text(name, "the name")
        check_text(text, name)
        directory = self.path if path is None else Path(path)
        with self._alone():
            if directory is None and not self.method.keeps_bank:
                return self._read_unnoted(text, name, progress, ranges)
            bank = self.bank
            known = self._known(name, text)
            if known is not None:
                return known
            self._check_room(text, name)
            with self.memory.undone_on_failure(), nullcontext() if directory is None else WriteLock(directory):
                return self._read(bank, text, name, directory, progress, ranges)

    def _read(
        self,
        bank: Bank,
        text: str,
        name: str,
        directory: Path | None,
        progress: Callable[[ReadProgress], None] | None,
        ranges: Sequence[tuple[int, int]] | None,
    ) -> DocumentInfo:
        """A document that is not known yet."""
        document: int | None = None
        tokens = unsaved = 0
        for block in self._blocks(text, ranges):
            if document is None:
                document = bank.add_document(name, text=text)
            spans = None if block.spans is None else block.spans[None].to(self.method.device)
            ids = block.ids[None].to(self.method.device)
            self.method.read(ids, documents=[document], spans=spans, memory=self._given)
            tokens, unsaved = tokens + len(block.ids), unsaved + len(block.ids)
            if directory is not None and unsaved >= SAVE_TOKENS:
                bank.save(directory)
                unsaved = 0
            if progress is not None:
                progress(ReadProgress(name, tokens, block.end, len(text), bank.nbytes))
        if document is None:
            raise LtmError(f"{name} holds no text; give it at least one word")
        bank.finish_document(document)
        if directory is not None:
            bank.save(directory)
        return bank.document_info(document)

    def _read_unnoted(
        self,
        text: str,
        name: str,
        progress: Callable[[ReadProgress], None] | None,
        ranges: Sequence[tuple[int, int]] | None,
    ) -> DocumentInfo:
        """Into a memory that does not note what it read: the session does."""
        for info, known in self._unnoted:
            if info.name == name and known != text:
                raise LtmError(f"this session has read another text called {name}; rename the new one")
            if info.name == name:
                return info
        self._check_room(text, name)
        tokens = 0
        with self.memory.undone_on_failure():
            for block in self._blocks(text, ranges):
                self.method.read(block.ids[None].to(self.method.device), memory=self._given)
                tokens += len(block.ids)
                if progress is not None:
                    progress(ReadProgress(name, tokens, block.end, len(text), self.memory.nbytes))
        if not tokens:
            raise LtmError(f"{name} holds no text; give it at least one word")
        info = DocumentInfo(len(self._unnoted), name, 0, tokens, 0, len(text), True)
        self._unnoted.append((info, text))
        return info

    def keep(self, turns: Sequence[dict[str, str]], name: str) -> None:
        """Take a conversation in, as a document."""
        self.read("".join(f"{turn['role'].capitalize()}: {turn['content'].strip()}\n\n" for turn in turns), name)

    def delete(self, document: str | int) -> DocumentInfo:
        """Remove a document, by name or id, from the memory; `save` removes it from the disk. Returns what it was."""
        with self._alone():
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
        with self._alone():
            self.bank.save(directory)
            recall = self.recall
            if recall is not None:
                recall.save(directory, self.bank)
        self.path = directory
        return directory

    # text in, text out

    def ask(
        self,
        question: str,
        *,
        history: Sequence[dict[str, str]] = (),
        given: Sequence[str] | None = None,
        trace: bool = False,
        on_text: OnText | None = None,
        **options: Any,
    ) -> Answer:
        """Answer a question with what is remembered: passages found for it are put into the window before it, and the
        memory is attached.

        history: earlier turns, {"role": "user" or "assistant", "content": ...}, in the model's chat template or, where
        it has none, line by line before the question; given: passages to put before the question in place of those that
        are looked up; trace: find the passages that attention used; on_text: gets the text as it comes; options: fields
        of `Asking` (recall, num_passages, instruction, min_confidence) and of `Sampling` (max_new_tokens, ...). A
        repetition penalty counts the answer's own tokens alone: an answer from a passage repeats it.
        """
        check_text(question, "the question")
        asking, sampling = split_options(options)
        chosen = config_from_options(Sampling, sampling, "generation")
        started = time.perf_counter()
        with self._alone():
            recalled = self._recalled(question, history, asking, given, chosen.max_new_tokens)
            if self._is_unknown(recalled, asking):
                return _unknown(recalled, time.perf_counter() - started, on_text)
            ids = self._prompt(question, recalled, asking, history)
            memory = self._given if asking.with_memory else None
            begin = partial(self._begin, memory=memory, asking=asking, history=history)
            stream, encoded = begin(ids)
            made = self._answer(ids, trace, on_text, chosen, memory, stream.cache, penalize_prompt=False)
            seconds = time.perf_counter() - started
            moved = []
            if trace:
                prompts = [ids, *self._prompts_without(question, recalled, asking, history)]
                words = [token.text for token in made.trace.tokens]
                moved = words_moved(prompts, made.token_ids, words, recalled.shown, lambda prompt: begin(prompt)[0])
        return replace(
            made,
            seconds=seconds,
            found=recalled.found,
            recalled=recalled.shown,
            confidence=recalled.confidence,
            moved=moved,
            encoded_tokens=encoded,
        )

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
        asking, rest = split_options(options)
        if rest:
            raise LtmError(f"{', '.join(rest)}: not to be had for many questions at once; ask one by one")
        check_given(given, questions)
        with self._alone():
            started = time.perf_counter()
            recalls = [
                self._recalled(q, (), asking, None if given is None else given[n], max_new_tokens)
                for n, q in enumerate(questions)
            ]
            prompts = [self._prompt(q, found, asking, ()) for q, found in zip(questions, recalls, strict=True)]
            asked = [n for n, found in enumerate(recalls) if not self._is_unknown(found, asking)]
            ends = end_tokens(self.method, self.tokenizer)
            written = greedy_tokens(
                self.method,
                [prompts[n][0].tolist() for n in asked],
                max_new_tokens,
                stop=ends,
                batch_size=batch_size,
                memory=self._given if asking.with_memory else None,
            )
            seconds = (time.perf_counter() - started) / max(len(questions), 1)
        made = dict(zip(asked, written, strict=True))
        return [
            self._answered(made[n], ends, recalls[n], prompts[n].shape[1], seconds)
            if n in made
            else _unknown(recalls[n], seconds)
            for n in range(len(questions))
        ]

    def answer_likelihoods(
        self, question: str, answers: Sequence[str], *, given: Sequence[str] | None = None, **options: Any
    ) -> list[float]:
        """Log-probability of each answer, in nats, as the reply to a question asked as `ask` would."""
        asking, rest = split_options(options)
        if rest:
            raise LtmError(f"{', '.join(rest)}: no part of how a question is put; leave it out")
        with self._alone():
            ids = self._prompt(question, self._recalled(question, (), asking, given), asking, ())
            after = [text_tokens(self.tokenizer, answer) for answer in answers]
            memory = self._given if asking.with_memory else None
            (scored,) = score_continuations(self.method, [ids[0].tolist()], [after], memory=memory)
        return scored.log_likelihoods

    def reset(self) -> None:
        """Forget everything that was read; a directory keeps what was saved there."""
        with self._alone():
            self.method.reset(memory=self._given)
            self._unnoted.clear()
            self._recall = None

    # recall

    @property
    def recall(self) -> PassageRecall | None:
        """What finds passages in the texts of the bank, up to date with it; None where the method keeps none."""
        if not self.method.keeps_bank:
            return None
        bank = self.memory.bank
        if self._recall is None:
            self._recall = PassageRecall(self.encoder)
            if bank is not None and self.path is not None:
                self._recall.load(self.path, bank)
        if bank is not None:
            self._recall.follow(bank)
        return self._recall

    def _recalled(
        self,
        question: str,
        history: Sequence[dict[str, str]],
        asking: Asking,
        given: Sequence[str] | None,
        new_tokens: int = 0,
    ) -> Recalled:
        """What stands before a question; new_tokens: most tokens of the answer."""
        if given is not None:
            return Recalled([], [Passage(None, None, None, text, 1.0) for text in given])
        recall = self.recall if asking.in_window else None
        if recall is None:
            return Recalled([], [])
        if self.path is not None and Bank.exists(self.path):
            recall.save(self.path, self.memory.bank, much=True)
        before = next((turn["content"] for turn in reversed(history) if turn.get("role") == "user"), "")
        found = recall.find(question, before, asking.num_passages)
        return replace(found, shown=fitting(found.shown, self.tokenizer, self._room(question, asking, new_tokens)))

    def _room(self, question: str, asking: Asking, new_tokens: int) -> int | None:
        """Most tokens of passages: a share of the window, and what the positions leave where they are true ones."""
        window, limit = self.method.new_stream().window, self.method.max_stream_tokens
        room = None if window is None else int(window * WINDOW_SHARE)
        if limit is None:
            return room
        left = (
            limit
            - (self._held_tokens() if asking.with_memory else 0)
            - new_tokens
            - len(token_ids(self.tokenizer, question))
            - FRAME_TOKENS
        )
        return max(left, 0) if room is None else max(min(room, left), 0)

    def _is_unknown(self, recalled: Recalled, asking: Asking) -> bool:
        return recalled.confidence is not None and recalled.confidence < asking.min_confidence

    def _prompt(self, question: str, recalled: Recalled, asking: Asking, history: Sequence[dict[str, str]]) -> Tensor:
        if not question.strip():
            raise LtmError("the question is empty; ask something")
        return question_ids(self.tokenizer, prompt_text(question, recalled.shown, asking), history)

    def _prompts_without(
        self, question: str, recalled: Recalled, asking: Asking, history: Sequence[dict[str, str]]
    ) -> list[Tensor]:
        """The prompt without each of the passages that stand before the question."""
        asking = replace(asking, instruction=instruction_of(asking, recalled.shown))
        shown = [[*recalled.shown[:n], *recalled.shown[n + 1 :]] for n in range(len(recalled.shown))]
        return [self._prompt(question, replace(recalled, shown=own), asking, history) for own in shown]

    def _begin(
        self, ids: Tensor, memory: Any, asking: Asking, history: Sequence[dict[str, str]]
    ) -> tuple[OpenStream, int]:
        """A stream that has the beginning that this prompt shares with the next one's, and how many tokens of the
        prompt were not encoded before; nothing is kept of a question without earlier turns."""
        if not history:
            return self.method.stream(memory), ids.shape[1]
        other = question_ids(self.tokenizer, "\u2026", history)
        stable = min(shared_length([ids[0].tolist(), other[0].tolist()]), ids.shape[1] - 1)
        bank = None if memory is None else self.memory.bank
        mark = (asking.with_memory, id(self.memory), None if bank is None else bank.version)
        return self._prefix.at(self.method, memory, ids, stable, mark)

    def _answered(
        self, tokens: Sequence[int], ends: Sequence[int], recalled: Recalled, prompt_tokens: int, seconds: float
    ) -> Answer:
        """An answer of a batch."""
        ended = bool(tokens) and tokens[-1] in ends
        kept = list(tokens[:-1] if ended else tokens)
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        return Answer(
            text,
            kept,
            [],
            prompt_tokens,
            ended,
            seconds,
            found=recalled.found,
            recalled=recalled.shown,
            confidence=recalled.confidence,
            encoded_tokens=prompt_tokens,
        )

    def continue_text(
        self, text: str, *, trace: bool = False, on_text: OnText | None = None, **sampling: Any
    ) -> Answer:
        """Go on from a text as it stands, without a chat template; arguments as for `ask`."""
        check_text(text, "the text")
        chosen = config_from_options(Sampling, sampling, "generation")
        ids = plain_ids(self.tokenizer, text)
        with self._alone():
            made = self._answer(ids, trace, on_text, chosen, self._given)
        return replace(made, encoded_tokens=ids.shape[1])

    def perplexity(self, text: str) -> PerplexityResult:
        """How well the text is predicted, token by token, given what is remembered; the memory stays as it is."""
        ids = token_ids(self.tokenizer, text)
        if len(ids) < 2:
            raise LtmError(f"the text has {len(ids)} tokens; perplexity needs two or more")
        with self._alone():
            return PerplexityResult([DocumentScore("text", score_stream(self.method, ids, memory=self._given))], 0.0)

    def _answer(
        self,
        ids: Tensor,
        trace: bool,
        on_text: OnText | None,
        options: Sampling,
        memory: Memory | LeftOut | None,
        cache: Any = None,
        penalize_prompt: bool = True,
    ) -> Answer:
        """In a block of `_alone`: what the trace names is looked up before anybody deletes it."""
        made = generate(
            self.method,
            self.tokenizer,
            ids,
            options,
            memory=memory,
            trace=trace,
            on_text=on_text,
            penalize_prompt=penalize_prompt,
            cache=cache,
        )
        spans, texts = self._spans(made.used) if trace else ({}, {})
        passages = find_passages(list(spans.values()), texts, NUM_PASSAGES)
        words = _words(self.tokenizer, made.token_ids) if trace else []
        by_token = [[(spans[chunk.slot], chunk.weight) for chunk in used] for used in made.used_by_token]
        by_token = [[]] * (len(words) - len(by_token)) + by_token  # nothing is noted where nothing is remembered
        traced = trace_tokens(words, by_token, list(spans.values()), texts) if trace else AnswerTrace()
        return Answer(made.text, made.token_ids, passages, made.prompt_tokens, made.ended, made.seconds, traced)

    def _spans(self, used: Sequence[UsedChunk]) -> tuple[dict[int, UsedSpan], dict[int, SourceText]]:
        """The chunks used, by slot, most used first, and the documents they lie in."""
        bank = self.memory.bank
        if bank is None or not used:
            return {}, {}
        sources = bank.sources([chunk.slot for chunk in used], 0)
        spans = {
            s.slot: UsedSpan(s.document, s.start, s.end, self.tokenizer.decode(s.token_ids), chunk.weight)
            for s, chunk in zip(sources, used, strict=True)
        }
        wanted = {span.document for span in spans.values() if span.document is not None}
        known = [bank.document_info(number) for number in wanted if number in bank.document_registry]
        texts = {info.id: (info.name, bank.document_text(info.id)) for info in sorted(known, key=lambda info: info.id)}
        return spans, {number: SourceText(name, text) for number, (name, text) in texts.items() if text is not None}

    # helpers

    def _known(self, name: str, text: str) -> DocumentInfo | None:
        """A whole document of this name and text; one that was cut off is removed."""
        bank = self.bank
        for info in bank.documents_named(name):
            if not info.complete:
                bank.delete_document(info.id)
            elif bank.document_text(info.id) == text:
                return info
            else:
                raise LtmError(
                    f"this memory holds another text called {name}; delete that one first, or rename the new one"
                )
        return None

    def _check_room(self, text: str, name: str) -> None:
        """Refuse a text that a method's stream cannot hold before anything is read of it."""
        limit = self.method.max_stream_tokens
        if limit is None:
            return
        held = self._held_tokens()
        new = len(token_ids(self.tokenizer, text))
        if held + new > limit:
            before = f" after {held:,} that were read" if held else ""
            raise LtmError(
                f"{name} has {new:,} tokens{before}, but {self.method.name} on {self.method.backbone.name} ends at "
                f"{limit:,}: it keeps true positions; read less, take a backbone with more positions, or a method "
                f"without that end, such as {DEFAULT_METHOD}"
            )

    def _held_tokens(self) -> int:
        memory = self.bank if self.method.keeps_bank else self.memory
        return memory.num_tokens(0) if memory.num_rows else 0

    def _blocks(self, text: str, ranges: Sequence[tuple[int, int]] | None) -> Iterator[TokenBlock]:
        """The tokens of a text, or of ranges of its characters, their own ranges counted from the text's start."""
        for start, end in [(0, len(text))] if ranges is None else ranges:
            for block in token_blocks(self.tokenizer, text[start:end], self._block_tokens()):
                spans = None if block.spans is None else block.spans + start
                yield TokenBlock(block.ids, spans, block.end + start)

    def _block_tokens(self) -> int:
        """Whole segments, so that what is remembered does not depend on how a text is cut into blocks."""
        segment = getattr(self.method.method_config, "segment_size", 1)
        return max(BLOCK_TOKENS // segment, 1) * segment


def _unknown(recalled: Recalled, seconds: float, on_text: OnText | None = None) -> Answer:
    """What is said where nothing fits."""
    if on_text is not None:
        on_text(UNKNOWN)
    return Answer(
        UNKNOWN, [], [], 0, True, seconds, found=recalled.found, confidence=recalled.confidence, abstained=True
    )


def _words(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; characters made of several tokens come with the last of them."""
    words, done = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=True)
        whole = text if end == len(ids) else text.rstrip("\ufffd")
        words.append(whole[len(done) :])
        done = max(done, whole, key=len)
    return words


def _no_bank(method: str) -> str:
    return f"method {method} keeps no bank; use one that does, such as {DEFAULT_METHOD}"


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
