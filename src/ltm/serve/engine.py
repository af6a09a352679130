"""What a request is to an engine, and what an engine is: where requests wait, and what answers them.

An engine gets a `ChatWork`, which holds no thread, lock or socket, and tells a `Listener`
what comes of it. One that decodes several requests in a batch holds each user's memory for as long as their row is
decoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from ltm.serve.answer_format import AnswerFormat
from ltm.serve.identity import Caller
from ltm.serve.token_options import TokenOptions
from ltm.serve.tools import ToolCall, prompt_messages
from ltm.text.token_rules import TokenScore

Result = TypeVar("Result")


@dataclass(frozen=True)
class ChatWork:
    """A request as an engine takes it.

    caller: whose memory; reads, writes: whether it is asked and added to (never without a user). messages: as
    `plain_message` has them, a user's or a tool's last. options: of `Asking` and `Sampling`. num_choices: answers that
    are wanted, each with the next seed. stops: strings at which an answer ends. num_known: messages, from the first,
    that the server kept and logged itself; after: the hash of what was said up to there, as `turn_log.chain` (None:
    what a client sent is looked through from its beginning). format: what an answer has to look like; tokens:
    what is said of single tokens of it.
    """

    caller: Caller
    messages: list[dict[str, Any]]
    reads: bool = False
    writes: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    num_choices: int = 1
    stops: tuple[str, ...] = ()
    num_known: int = 0
    after: str | None = None
    format: AnswerFormat = AnswerFormat()
    tokens: TokenOptions = TokenOptions()

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The messages as the model gets them, role and content, a user's last."""
        return prompt_messages(self.messages, self.format.tools)

    @property
    def query(self) -> str | None:
        """What is looked for in a memory; None: the last of the prompt."""
        if self.messages[-1]["role"] == "user":
            return None
        return next((one["content"] for one in reversed(self.messages) if one["role"] == "user"), None)

    @property
    def turn(self) -> str:
        """Who waits in the queue."""
        return self.caller.turn


@dataclass(frozen=True)
class Choice:
    """text: without the stop string and calls; reason: stop, length or tool_calls; num_tokens: that were made, the ones
    of a stop string and beyond it in the same word included. calls: of functions. scores: of its tokens, calls'
    included, where they are wanted."""

    text: str
    reason: str
    num_tokens: int
    calls: tuple[ToolCall, ...] = ()
    scores: tuple[TokenScore, ...] = ()


class Piece(NamedTuple):
    """What is new of a choice, by its number: text, and the scores of tokens where they are wanted."""

    choice: int
    text: str
    scores: Sequence[TokenScore] = ()


@dataclass(frozen=True)
class ChatReply:
    """choices; tokens of the prompt, recalled passages included, and how many of them were not computed again; used:
    what was recalled, as `memory.used` of a response; written: ids of the turns that are remembered now; remembered:
    tokens in the memory (None: it does not count in tokens); memory_ms: opening it and logging."""

    choices: list[Choice]
    prompt_tokens: int
    cached_tokens: int
    used: list[dict[str, Any]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    remembered: int | None = None
    memory_ms: float = 0.0


class Listener:
    """Gets an answer as it comes, with its calls as they are written, in the engine's thread. Set `is_gone` from any
    thread, and no more is made."""

    def __init__(self, on_piece: Callable[[Piece], None] | None = None):
        self.on_piece, self.is_gone = on_piece, False

    def hear(self, choice: int, text: str, scores: Sequence[TokenScore] = ()) -> None:
        """A piece of the answer; scores: of its tokens."""
        if (text or scores) and self.on_piece is not None:
            self.on_piece(Piece(choice, text, scores))


class Engine(ABC):
    """What answers; all its calls return at once."""

    @abstractmethod
    def answer(self, work: ChatWork, listener: Listener) -> Future[ChatReply]:
        """The answer to come; ApiError 503 where too many wait."""

    @abstractmethod
    def run(self, turn: str, call: Callable[[], Result]) -> Future[Result]:
        """Anything else that needs the model or a memory, in its user's turn."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many wait."""

    @abstractmethod
    def close(self) -> None:
        """End what runs at its next token, refuse what waits."""
