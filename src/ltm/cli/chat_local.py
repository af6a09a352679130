"""A memory of one's own as a partner of `ltm chat`: the model runs here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ltm.cli.ask import print_uses
from ltm.cli.chat_partner import MOST_SHOWN, ChatTurn, Message, Partner, Remembered
from ltm.console import notice, shell_line
from ltm.errors import LtmError
from ltm.text.text_session import TextSession

if TYPE_CHECKING:
    from ltm.data.passages import Passage
    from ltm.text.answer import Answer
    from ltm.text.session import Session

AS_MANY = 8
"""Passages looked at for each one that may be too new."""


class LocalPartner(Partner):
    """A session. options: of `Session.ask`; keeps: whether a saved memory takes the conversation in at its end."""

    def __init__(self, session: Session | TextSession, options: dict[str, Any], keeps: bool):
        self.session, self.options, self.keeps = session, options, keeps

    def ask(self, question: str, history: list[Message], on_text: Callable[[str], None]) -> ChatTurn:
        given = None if self.as_of is None else [one.text for one in self._found(question, self._num_passages)]
        made = self.session.ask(question, history=history, given=given, trace=True, on_text=on_text, **self.options)
        used = [_remembered(one) for one in _passages(made)]
        return ChatTurn(made.text, len(made.token_ids), made.seconds, made.ended, lambda: print_uses(made), used)

    def memory(self, words: str) -> list[Remembered]:
        if words:
            return [_remembered(one, self._time(one.document)) for one in self._found(words, MOST_SHOWN)]
        names = [info.name for info in reversed(self.session.documents)]
        known = [Remembered(name, self._text(name), self._time(name)) for name in names if self._is_early(name)]
        return known[:MOST_SHOWN]

    def forget(self, name: str) -> str:
        gone = self.session.delete(name)
        if self.session.path is not None:
            self.session.save()
        return gone.name

    def forget_said(self) -> None:
        """Nothing of it is remembered before the end."""

    def check_time(self) -> None:
        if not isinstance(self.session, TextSession):
            raise LtmError("this memory keeps no times; a memory of text does, and a server: ltm chat --server URL")

    def end(self, history: list[Message]) -> None:
        """Take what was said into a saved memory, as a document of its own."""
        path = self.session.path
        if path is None or not history or not self.keeps:
            return
        name = f"chat {datetime.now():%Y-%m-%d %H:%M:%S}"
        self.session.keep(history, name)
        notice(f"remembered as {name}; to forget it: {shell_line('ltm', 'bank', 'delete', path, name)}", style="dim")

    @property
    def _num_passages(self) -> int:
        return int(self.options.get("num_passages") or 1)

    def _found(self, words: str, count: int) -> list[Passage]:
        found = self.session.search(words, count if self.as_of is None else AS_MANY * count)
        return [one for one in found if self._is_early(one.document)][:count]

    def _is_early(self, document: str | None) -> bool:
        return self.as_of is None or (self._time(document) or "~") < self.as_of

    def _time(self, document: str | None) -> str | None:
        """When a document of a memory of text was remembered."""
        if document is None or not isinstance(self.session, TextSession):
            return None
        events = self.session.memory[0].events(document)
        return events[0].time if events else None

    def _text(self, document: str) -> str:
        if isinstance(self.session, TextSession):
            return "\n".join(one.text for one in self.session.memory[0].events(document))
        bank = self.session.bank
        (info,) = [one for one in bank.documents if one.name == document][:1]
        return bank.document_text(info.id) or ""


def _passages(made: Answer) -> list[Passage]:
    """What stood in the window, else what attention used."""
    return made.recalled or made.passages


def _remembered(one: Passage, time: str | None = None) -> Remembered:
    return Remembered(one.document or "", one.text, time, None, round(float(one.weight), 4))
