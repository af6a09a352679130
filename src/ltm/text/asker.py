"""Asker: a question into a prompt, with what was found for it, and the prompt into an answer."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from ltm.bank import Bank
from ltm.configs import config_from_options
from ltm.data.passages import AnswerTrace
from ltm.data.tokens import token_ids
from ltm.errors import LtmError
from ltm.memory import LeftOut, Memory
from ltm.streams.open_stream import OpenStream
from ltm.tasks.scoring import greedy_tokens, score_continuations, shared_length, text_tokens
from ltm.text.answer import Answer, unknown_answer
from ltm.text.asking import Asking, asked_ids, check_given, fitting, instruction_of, split_options
from ltm.text.generation import OnText, Sampling, Turn, end_tokens, generate
from ltm.text.moved import words_moved
from ltm.text.plain import has_template, line_ends
from ltm.text.prefix import KeptPrefix
from ltm.text.recall import WINDOW_SHARE, PassageRecall, Recalled, given_passages
from ltm.text.session_memory import SessionMemory
from ltm.text.token_rules import TokenRule
from ltm.text.used_passages import used_passages

OTHER_SHOWN = given_passages(["\u2026"]).shown
"""Passages of a question that is not known yet."""
FOR_ONE, NO_PART = (
    "not to be had for many questions at once; ask one by one",
    "no part of how a question is put; leave it out",
)
"""Why an option is refused."""
FRAME_TOKENS = 96
"""Room for a chat template, documents' names and the instruction, beside passages and question."""


class Asker:
    """Answers from a session's memory; `Session.ask` says what each argument is. Each verb is called in a block of
    `memory.alone()`: what a trace names is looked up before anybody deletes it.

    encoder: what finds passages by meaning, as `PassageRecall` takes it.
    """

    def __init__(self, memory: SessionMemory, tokenizer: Any, encoder: str | None):
        self.memory, self.tokenizer, self.encoder = memory, tokenizer, encoder
        self._recall: PassageRecall | None = None
        self._prefix = KeptPrefix()

    # the verbs

    def ask(
        self,
        question: str,
        history: Sequence[Turn],
        given: Sequence[str] | None,
        trace: bool,
        on_text: OnText | None,
        leave_out: Collection[str],
        options: dict[str, Any],
        rules: Sequence[TokenRule] = (),
    ) -> Answer:
        asking, sampling = split_options(options)
        chosen = config_from_options(Sampling, sampling, "generation")
        started = time.perf_counter()
        recalled = self._recalled(question, history, asking, given, chosen.max_new_tokens, leave_out)
        if _is_unknown(recalled, asking):
            return unknown_answer(recalled, time.perf_counter() - started, on_text)
        ids, memory = self._prompt(question, recalled, asking, history), self._attached(asking)
        begin = partial(self._begin, memory=memory, asking=asking, history=history)
        stream, encoded = begin(ids)
        how = {"cache": stream.cache, "penalize_prompt": False, "line_ends": self.line_ends, "rules": rules}
        made = self.go_on(ids, trace, on_text, chosen, memory, **how)
        made = replace(made, seconds=time.perf_counter() - started, encoded_tokens=encoded).after(recalled)
        if not trace:
            return made
        prompts = [ids, *self._prompts_without(question, recalled, asking, history)]
        words = [token.text for token in made.trace.tokens]
        moved = words_moved(prompts, made.token_ids, words, recalled.shown, lambda prompt: begin(prompt)[0])
        return replace(made, moved=moved)

    def ask_all(
        self,
        questions: Sequence[str],
        given: Sequence[Sequence[str]] | None,
        batch_size: int,
        max_new_tokens: int,
        options: dict[str, Any],
    ) -> list[Answer]:
        asking = only_asking(options, FOR_ONE)
        check_given(given, questions)
        started = time.perf_counter()
        recalls = [
            self._recalled(question, (), asking, None if given is None else given[n], max_new_tokens)
            for n, question in enumerate(questions)
        ]
        prompts = [self._prompt(q, found, asking, ())[0].tolist() for q, found in zip(questions, recalls, strict=True)]
        asked = [n for n, found in enumerate(recalls) if not _is_unknown(found, asking)]
        line_ends = self.line_ends
        ends = [*end_tokens(self.memory.method, self.tokenizer), *line_ends]
        written = greedy_tokens(
            self.memory.method,
            [prompts[n] for n in asked],
            max_new_tokens,
            stop=ends,
            not_first=line_ends,
            batch_size=batch_size,
            memory=self._attached(asking),
        )
        seconds = (time.perf_counter() - started) / max(len(questions), 1)
        answers = [unknown_answer(recalled, seconds) for recalled in recalls]
        for n, tokens in zip(asked, written, strict=True):
            answers[n] = self._answer(tokens, ends, len(prompts[n]), seconds).after(recalls[n])
        return answers

    def likelihoods(
        self, question: str, answers: Sequence[str], given: Sequence[str] | None, options: dict[str, Any]
    ) -> list[float]:
        asking = only_asking(options, NO_PART)
        ids = self._prompt(question, self._recalled(question, (), asking, given), asking, ())
        between = "" if has_template(self.tokenizer) else " "  # after "Answer:"
        after = [text_tokens(self.tokenizer, between + answer) for answer in answers]
        memory = self._attached(asking)
        (scored,) = score_continuations(self.memory.method, [ids[0].tolist()], [after], memory=memory)
        return scored.log_likelihoods

    def go_on(
        self,
        ids: Tensor,
        trace: bool,
        on_text: OnText | None,
        sampling: Sampling,
        memory: Memory | LeftOut | None,
        **how: Any,
    ) -> Answer:
        """What follows a prompt, int64 [1, tokens]; how: as `generate` takes it."""
        method, tokenizer = self.memory.method, self.tokenizer
        made = generate(method, tokenizer, ids, sampling, memory=memory, trace=trace, on_text=on_text, **how)
        used = used_passages(made, self.memory.bank, tokenizer) if trace else ([], AnswerTrace())
        passages, traced = used
        tokens = made.prompt_tokens
        return Answer(
            made.text, made.token_ids, passages, tokens, made.ended, made.seconds, traced, encoded_tokens=tokens
        )

    # recall

    @property
    def recall(self) -> PassageRecall:
        """What finds passages in the texts that were read, up to date with them."""
        bank, path = self.memory.bank, self.memory.path
        if self._recall is None:
            self._recall = PassageRecall(self.encoder)
            if bank is not None and path is not None:
                self._recall.load(path, bank)
        self._recall.follow(self.memory.registry)
        return self._recall

    def _recalled(
        self,
        question: str,
        history: Sequence[Turn],
        asking: Asking,
        given: Sequence[str] | None,
        new_tokens: int = 0,
        leave_out: Collection[str] = (),
    ) -> Recalled:
        """What stands before a question; new_tokens: most tokens of the answer; leave_out: documents."""
        if given is not None:
            return given_passages(given)
        if not asking.in_window:
            return Recalled([], [])
        recall, bank, path = self.recall, self.memory.bank, self.memory.path
        if bank is not None and path is not None and Bank.exists(path):
            recall.save(path, bank, much=True)
        before = next((turn["content"] for turn in reversed(history) if turn.get("role") == "user"), "")
        found = recall.find(asking.query or question, before, asking.num_passages, leave_out)
        if found.confidence is not None and found.confidence < asking.show_confidence:
            return replace(found, shown=[])
        return replace(found, shown=fitting(found.shown, self.tokenizer, self._room(question, asking, new_tokens)))

    def _room(self, question: str, asking: Asking, new_tokens: int) -> int | None:
        """Most tokens of passages: a share of the window, and what the positions leave where they are true ones."""
        method = self.memory.method
        window, limit = method.new_stream().window, method.max_stream_tokens
        room = None if window is None else int(window * WINDOW_SHARE)
        if limit is None:
            return room
        held = self.memory.num_tokens() if asking.with_memory else 0
        left = max(limit - held - new_tokens - len(token_ids(self.tokenizer, question)) - FRAME_TOKENS, 0)
        return left if room is None else min(room, left)

    # prompts

    def _attached(self, asking: Asking) -> Memory | LeftOut | None:
        """The memory as methods take it; None: none is attached."""
        return self.memory.given if asking.with_memory else None

    def _prompt(self, question: str, recalled: Recalled, asking: Asking, history: Sequence[Turn]) -> Tensor:
        """int64 [1, tokens]."""
        if not question.strip():
            raise LtmError("the question is empty; ask something")
        return asked_ids(self.tokenizer, question, recalled.shown, asking, history)

    @property
    def line_ends(self) -> list[int]:
        """Tokens that end an answer beside the model's own: of a model without turns, which goes on with texts."""
        return [] if has_template(self.tokenizer) else line_ends(self.tokenizer)

    def _prompts_without(
        self, question: str, recalled: Recalled, asking: Asking, history: Sequence[Turn]
    ) -> list[Tensor]:
        """The prompt without each of the passages that stand before the question."""
        asking = replace(asking, instruction=instruction_of(asking, recalled.shown, self.tokenizer))
        shown = [[*recalled.shown[:n], *recalled.shown[n + 1 :]] for n in range(len(recalled.shown))]
        return [self._prompt(question, replace(recalled, shown=own), asking, history) for own in shown]

    def _begin(self, ids: Tensor, memory: Any, asking: Asking, history: Sequence[Turn]) -> tuple[OpenStream, int]:
        """A stream that has the beginning that this prompt shares with the next one's, and how many tokens of the
        prompt were not encoded before; nothing is kept of a question without earlier turns."""
        method = self.memory.method
        if not history:
            return method.stream(memory), ids.shape[1]
        # the next question may stand alone or behind passages, whether this one does or not
        others = [asked_ids(self.tokenizer, "\u2026", shown, asking, history) for shown in ([], OTHER_SHOWN)]
        stable = min(shared_length([one[0].tolist() for one in (ids, *others)]), ids.shape[1] - 1)
        bank = None if memory is None else self.memory.bank
        # what is read later does not reach back into turns that stand; what is deleted does
        mark = (asking.with_memory, id(self.memory.held), None if bank is None else bank.document_registry.deleted_at)
        return self._prefix.at(method, memory, ids, stable, mark)

    def _answer(self, tokens: Sequence[int], ends: Sequence[int], prompt_tokens: int, seconds: float) -> Answer:
        """An answer of a batch; tokens: with the one that ended it."""
        ended = bool(tokens) and tokens[-1] in ends
        kept = list(tokens[:-1] if ended else tokens)
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        return Answer(text, kept, [], prompt_tokens, ended, seconds, encoded_tokens=prompt_tokens)


def only_asking(options: dict[str, Any], why_not: str) -> Asking:
    """What options say of how to ask; LtmError for any other."""
    asking, rest = split_options(options)
    if rest:
        raise LtmError(f"{', '.join(rest)}: {why_not}")
    return asking


def _is_unknown(recalled: Recalled, asking: Asking) -> bool:
    """Whether too little was found for an answer."""
    return recalled.confidence is not None and recalled.confidence < asking.min_confidence
