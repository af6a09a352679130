"""The engine that answers one request at a time in one thread, users in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

from ltm.data.tokens import token_ids
from ltm.serve.engine import ChatReply, ChatWork, Choice, Engine, Listener, Result
from ltm.serve.errors import ApiError
from ltm.serve.fair_queue import FairQueue, QueueFull
from ltm.serve.hearing import Hearing
from ltm.serve.served_model import AnySession, ServedModel
from ltm.serve.turn_log import LoggedTurn, chain, said
from ltm.serve.user_memory import UserMemory
from ltm.serve.users import Users
from ltm.text.answer import Answer
from ltm.text.generation import EndOfAnswer, question_ids
from ltm.text.recall import RecallMode


class SerialEngine(Engine):
    """One thread that answers one request at a time, users in turn; what is to be remembered is read after the answer,
    in the same user's turn, and before that user's next question at the latest.

    size: most requests that wait. recall: what of a memory an answer has.
    """

    def __init__(self, model: ServedModel, users: Users, size: int, recall: RecallMode = "both"):
        self.model, self.users, self.recall = model, users, recall
        self._queue: FairQueue[tuple[Future, Callable[[], Any]]] = FairQueue(size)
        self._is_closing = False
        self._thread = Thread(target=self._work, name="ltm-engine", daemon=True)
        self._thread.start()

    def answer(self, work: ChatWork, listener: Listener) -> Future[ChatReply]:
        return self._submit(work.turn, lambda: self._answer(work, listener))

    def run(self, turn: str, call: Callable[[], Result]) -> Future[Result]:
        return self._submit(turn, call)

    @property
    def depth(self) -> int:
        return len(self._queue)

    def close(self) -> None:
        self._is_closing = True
        for future, _ in self._queue.close():
            future.cancel()
        self._thread.join()

    def _submit(self, turn: str, call: Callable[[], Result], *, beyond: bool = False) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            self._queue.put(turn, (future, call), beyond=beyond)
        except QueueFull:
            why = "the server is stopping" if self._is_closing else "too many requests wait for the model"
            raise ApiError(503, f"{why}; come again", "overloaded") from None
        return future

    def _work(self) -> None:
        while (item := self._queue.take()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # whatever it is, it is the caller's; this thread goes on
                future.set_exception(error)

    # one answer

    def _answer(self, work: ChatWork, listener: Listener) -> ChatReply:
        with self._memory(work) as (memory, opening):
            session: AnySession = memory.session if memory is not None and work.reads else self.model.plain
            self._check_room(work, session)
            answers, choices = [], []
            in_window = self._in_window(work, session, memory) if memory is not None and work.reads else set()
            for number in range(work.num_choices):
                answer, choice = self._choice(work, session, listener, number, in_window)
                answers.append(answer)
                choices.append(choice)
            if memory is None:
                return _reply(answers, choices)
            started = time.perf_counter()
            written = self._note(work, memory, choices, listener) if work.writes else []
            seconds = opening + time.perf_counter() - started
            used = _used(answers[0], memory) if work.reads else []
            held = _num_tokens(memory.session)
            return _reply(answers, choices, used, written, held, 1000 * seconds)

    @contextmanager
    def _memory(self, work: ChatWork) -> Iterator[tuple[UserMemory | None, float]]:
        """The memory of a request, if it has one, with all that was said before, and the seconds that took."""
        if not (work.reads or work.writes):
            yield None, 0.0
            return
        started = time.perf_counter()
        with self.users.using(work.caller) as memory:
            yield memory, time.perf_counter() - started

    def _choice(
        self, work: ChatWork, session: AnySession, listener: Listener, number: int, in_window: set[str]
    ) -> tuple[Answer, Choice]:
        rules, scores = work.tokens.rules(work.format, self.model.grammars)
        hearing = Hearing(work, listener, number, scores)

        def hear(text: str) -> None:
            if listener.is_gone or self._is_closing:
                raise EndOfAnswer
            hearing.hear(text)

        *history, last = work.prompt
        options = {**work.options, "query": work.query}
        if options.get("seed") is not None:
            options["seed"] = (options["seed"] + number) % 2**63
        options["recall"] = self.recall if work.reads else "off"
        answer = session.ask(
            last["content"], history=history, on_text=hear, leave_out=in_window, rules=rules, **options
        )
        return answer, hearing.choice(ended=answer.ended, num_tokens=len(answer.token_ids))

    def _in_window(self, work: ChatWork, session: AnySession, memory: UserMemory) -> set[str]:
        """Names of the turns of a request that the model sees anyway: those at its end that its window has room for,
        the question among them, which a client may send a second time."""
        left, names = session.window, set()
        for text, turn in self._turns_back(work, memory):
            if left is not None:
                left -= len(token_ids(self.model.tokenizer, text))
                if left < 0:
                    break
            if turn is not None:
                names.add(turn.name)
        return names

    def _turns_back(self, work: ChatWork, memory: UserMemory) -> Iterator[tuple[str, LoggedTurn | None]]:
        """What was said up to a question, the last first, with its place in the log where it has one."""
        turns = said(work.messages[work.num_known :])
        hashes = [own for _, own in chain(turns, work.caller.session, work.after)]
        for (_, text), own in zip(reversed(turns), reversed(hashes), strict=True):
            yield text, memory.log.by_hash(own)
        before = work.after
        while before and (turn := memory.log.by_hash(before)) is not None:
            yield turn.text, turn
            before = turn.parent

    def _check_room(self, work: ChatWork, session: AnySession) -> None:
        """Refuse what has no room, where a model's positions end."""
        if session.capacity is None:
            return
        *history, last = work.prompt
        prompt, new = (
            question_ids(self.model.tokenizer, last["content"], history).shape[1],
            work.options["max_new_tokens"],
        )
        if prompt + new > session.capacity:
            message = (
                f"{prompt:,} tokens and {new:,} for the answer are more than the {session.capacity:,} of this model"
            )
            raise ApiError(400, f"{message}; send less, or ask for fewer", "context_length_exceeded", "messages")

    def _note(self, work: ChatWork, memory: UserMemory, choices: list[Choice], listener: Listener) -> list[str]:
        """Log what is new, and have it taken in after the answer. An answer is new if it is the only one and whole:
        of several, and of one that was broken off, the history says which the client goes on with."""
        is_whole = len(choices) == 1 and not listener.is_gone and not self._is_closing
        answer = choices[0].text if is_whole else None
        turns = memory.note(said(work.messages[work.num_known :]), work.caller.session, answer, work.after)
        if turns:
            self._take_in_later(work)
        return [turn.id for turn in turns]

    def _take_in_later(self, work: ChatWork) -> None:
        def take_in() -> None:
            with self.users.using(work.caller):
                pass  # whoever uses a memory finds it up to date

        with suppress(ApiError):  # the server is stopping: it is in the log
            self._submit(work.turn, take_in, beyond=True)


def _reply(answers: list[Answer], choices: list[Choice], *memory: Any) -> ChatReply:
    first = answers[0]
    return ChatReply(choices, first.prompt_tokens, first.prompt_tokens - first.encoded_tokens, *memory)


def _used(answer: Answer, memory: UserMemory) -> list[dict[str, Any]]:
    """Passages that stood before the question, by the turn they are from, the weightiest first."""
    found: dict[str, dict[str, Any]] = {}
    for passage in answer.recalled:
        turn = memory.log.by_name(passage.document or "")
        if turn is not None:
            known = found.setdefault(turn.id, {"id": turn.id, "score": 0.0, "source": turn.role, "t": turn.time})
            known["score"] = max(known["score"], round(float(passage.weight), 4))
    return sorted(found.values(), key=lambda one: -one["score"])


def _num_tokens(session: AnySession) -> int | None:
    """Tokens in a bank; None for a memory of text."""
    bank = getattr(session.memory, "bank", None)
    return None if bank is None else bank.num_tokens(0) if bank.num_rows else 0
