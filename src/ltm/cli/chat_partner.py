"""Whom `ltm chat` talks with: a memory of one's own, or a server. The commands are the same words with both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ltm.console import notice
from ltm.errors import LtmError

Message = dict[str, str]
MOST_SHOWN = 20
"""Memories that are listed at once."""
MOST_CHARS = 300
"""Of a memory that are shown to a person."""


class PartnerError(LtmError):
    """What a partner could not do this time; the conversation goes on."""


@dataclass(frozen=True)
class Remembered:
    """A memory. id: by which it is forgotten; time: ISO 8601; source: who said it; score: how well it fits, the higher
    the better; None for what is not known."""

    id: str
    text: str
    time: str | None = None
    source: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class ChatTurn:
    """text; used: memories, the weightiest first; written: ids of the memories that were made of the turn; num_tokens
    of the answer; seconds for all of it; ended: by the model itself; why: tells a person on stderr what was used."""

    text: str
    num_tokens: int
    seconds: float
    ended: bool
    why: Callable[[], None]
    used: list[Remembered] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "text": self.text,
            "used": [asdict(one) for one in self.used],
            "written": self.written,
            "tokens": self.num_tokens,
            "ended": self.ended,
            "seconds": round(self.seconds, 3),
        }


class Partner(ABC):
    """What answers, and what can be done with what it remembers. as_of: only what was remembered before this time (ISO
    8601) is used and listed; None: everything."""

    as_of: str | None = None

    @abstractmethod
    def ask(self, question: str, history: list[Message], on_text: Callable[[str], None]) -> ChatTurn:
        """Answer; on_text gets the text as it comes. Ctrl-C ends it by KeyboardInterrupt."""

    @abstractmethod
    def memory(self, words: str) -> list[Remembered]:
        """What fits these words, best first; without any, what came last, newest first."""

    @abstractmethod
    def forget(self, name: str) -> str:
        """Delete a memory by its id; what was deleted, in words. LtmError where there is none."""

    @abstractmethod
    def forget_said(self) -> None:
        """Delete what was remembered of this conversation; another one begins."""

    def check_time(self) -> None:  # noqa: B027  (most can)
        """Raise LtmError where it is not known when something was remembered."""

    @abstractmethod
    def end(self, history: list[Message]) -> None:
        """The conversation is over: keep what is to be kept."""


def tell_remembered(found: list[Remembered], nothing: str) -> None:
    """Memories, on stderr."""
    for one in found:
        about = [one.id, one.time, one.source, None if one.score is None else f"score {one.score:.3f}"]
        notice("  ".join(filter(None, about)), style="bold")
        notice("    " + " ".join(one.text.split())[:MOST_CHARS])
    if not found:
        notice(nothing, style="dim")
