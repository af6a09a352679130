"""One user's memory: the log of what was said, and the session whose memory is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ltm.errors import LtmError
from ltm.serve.keys import utc_now
from ltm.serve.served_model import AnySession, ServedModel
from ltm.serve.turn_log import LoggedTurn, TurnLog

OPEN_BYTES = 500_000
"""What an open memory takes beside what it says of itself: connections, tables, passages that were looked up (measured
on tiny-llama: 0.2 MB, 0.5 MB once it was asked)."""


class UserMemory:
    """What is open of one user; to be used by one thread at a time.

    roles: whose turns are taken in. A model that reads its own answers takes them for facts, the wrong ones, too; so by
    default it does not.

    The log is the truth: what it holds and the memory does not is read into it by `take_in`, after a kill or with
    another model, too.

    >>> memory = UserMemory(directory, model)  # doctest: +SKIP
    >>> memory.note([("user", "My cat is Tom.")]); memory.take_in()  # doctest: +SKIP
    """

    def __init__(self, directory: Path, model: ServedModel, roles: Sequence[str] = ("user",)):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.place, self.roles = model.place, roles
        self.log = TurnLog(directory)
        try:
            self.session: AnySession = model.session(directory / self.place)
        except BaseException:
            self.log.close()
            raise
        self._names: set[str] | None = None  # of documents; looked up once, for what a kill left half done
        self._refused: dict[int, LtmError] = {}  # turns that cannot be read; tried again when it is opened again

    @property
    def nbytes(self) -> int:
        """What it takes to be open."""
        return OPEN_BYTES + self.session.memory.nbytes

    @property
    def num_turns(self) -> int:
        return self.log.num_turns

    def note(
        self,
        turns: Sequence[tuple[str, str]],
        session: str | None = None,
        answer: str | None = None,
        after: str | None = None,
    ) -> list[LoggedTurn]:
        """Log what is new of a history; arguments as `TurnLog.add`. It is on the disk, and waits to be taken in."""
        return self.log.add(turns, utc_now(), session, answer, after)

    def take_in(self) -> list[LtmError]:
        """Read into the memory whatever it does not hold yet; what it refused, which keeps no other turn away."""
        refused = []
        for turn in self.log.waiting(self.place, self.roles):
            if turn.number in self._refused:
                continue
            try:
                self._keep(turn)
                self.log.note_held(turn, self.place)
            except LtmError as error:
                self._refused[turn.number] = error
                refused.append(error)
        return refused

    def _keep(self, turn: LoggedTurn) -> None:
        if turn.name not in self.names:
            self.session.keep([{"role": turn.role, "content": turn.text}], turn.name)
            self.names.add(turn.name)

    def forget_before(self, time: datetime) -> int:
        """Delete what was said before a time; how many turns that were."""
        old = self.log.before(time)
        self.forget(old)
        return len(old)

    def forget(self, turns: Sequence[LoggedTurn]) -> None:
        """Delete turns, from the memory first."""
        held = [turn.name for turn in turns if turn.name in self.names]
        for name in held:
            self.session.delete(name)
            self.names.discard(name)
        if held:
            self.session.save()
        self.log.forget(turns)

    @property
    def names(self) -> set[str]:
        """Of the documents in the memory."""
        if self._names is None:
            self._names = {info.name for info in self.session.documents}
        return self._names

    def close(self) -> None:
        """Give the files back; all is on the disk already."""
        self.log.close()
        close = getattr(self.session.memory, "close", None)
        if close is not None:
            close()
