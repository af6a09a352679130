"""One user's memory: the log of what was said, and the session whose memory is made of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from ltm.errors import LtmError
from ltm.notes.splitting import only_asks
from ltm.serve.archive_rows import Rows, Taken
from ltm.serve.document_log import DocumentLog, GivenDocument
from ltm.serve.importing import IMPORTED, discard, take_in
from ltm.serve.kept_copies import KeptCopies, NumCopies
from ltm.serve.keys import utc_now
from ltm.serve.served_model import AnySession, ServedModel
from ltm.serve.turn_log import DOCUMENT, ROLES, LoggedTurn, TurnLog

ASIDE = ".gone-"
"""What the name of a memory's directory begins with while it is deleted."""
PIECES_AT_ONCE = 1
"""Of documents, that are read in one use of a memory."""
OPEN_BYTES = 500_000
"""What an open memory takes beside what it says of itself: connections, tables, passages that were looked up (measured
on tiny-llama: 0.2 MB, 0.5 MB once it was asked)."""


class UserMemory:
    """What is open of one user; to be used by one thread at a time.

    roles: whose turns are taken in. A model that reads its own answers takes them for facts, the wrong ones, too; so by
    default it does not. A turn of questions alone is not taken in either: it would be found for the same question.

    told_forgotten: called before anything is forgotten or corrected.

    The log is the truth: what it holds and the memory does not is read into it by `take_in`, after a kill or with
    another model, too.

    >>> memory = UserMemory(directory, model)  # doctest: +SKIP
    >>> memory.note([("user", "My cat is Tom.")]); memory.take_in()  # doctest: +SKIP
    """

    def __init__(
        self,
        directory: Path,
        model: ServedModel,
        roles: Sequence[str] = ("user",),
        told_forgotten: Callable[[], None] | None = None,
    ):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory, self.model, self.place, self.roles = directory, model, model.place, roles
        self._told_forgotten = told_forgotten or (lambda: None)
        self.log, self.copies = TurnLog(directory), KeptCopies(directory)
        try:
            self.session = self._open_session()
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

    def add(self, text: str) -> LoggedTurn:
        """Log a text of the user's that belongs to no conversation; it waits to be taken in."""
        return self.log.add_alone(text, utc_now())

    def take_in(self) -> list[LtmError]:
        """Bring the memory to what the log says: what was forgotten or corrected leaves it, what it does not hold yet
        is read into it. Returns what it refused, which keeps no other turn away."""
        self._drop_outdated()
        refused = []
        for turn in [*self.log.waiting(self.place, self.roles), *self._next_pieces()]:
            if turn.number in self._refused:
                continue
            try:
                if turn.is_alone or turn.role == DOCUMENT or not only_asks(turn.text):
                    self._keep(turn)
                self.log.note_held(turn, self.place)
            except LtmError as error:
                self._refused[turn.number] = error
                refused.append(error)
        return refused

    def _next_pieces(self) -> list[LoggedTurn]:
        """Of documents: few at a time, so that nobody waits long."""
        pieces = self.log.waiting(self.place, [DOCUMENT], PIECES_AT_ONCE + len(self._refused))
        return [piece for piece in pieces if piece.number not in self._refused][:PIECES_AT_ONCE]

    @property
    def num_unread(self) -> int:
        """Pieces of documents that are to be read yet; not those that were refused."""
        pieces = self.log.waiting(self.place, [DOCUMENT], len(self._refused)) if self._refused else []
        refused = sum(piece.number in self._refused for piece in pieces)
        return self.log.num_waiting(self.place, DOCUMENT) - refused

    @property
    def documents(self) -> DocumentLog:
        """What the user gave to be read."""
        return DocumentLog(self.log, self.place)

    def add_document(self, name: str, text: str) -> GivenDocument:
        """Log a document; it is read piece by piece whenever the memory is used."""
        return self.documents.add(name, text, utc_now())

    def refusal_of(self, turn: LoggedTurn) -> LtmError | None:
        """Why a turn could not be taken in."""
        return self._refused.get(turn.number)

    def _keep(self, turn: LoggedTurn) -> None:
        if turn.name not in self.names:
            self.session.keep([{"role": turn.role, "content": turn.text}], turn.name)
            self.names.add(turn.name)

    def forget_before(self, time: datetime) -> int:
        """Delete what was said before a time; how many turns that were."""
        old = self.log.before(time)
        if old:
            self.forget(old)
        return len(old)

    def forget(self, turns: Sequence[LoggedTurn]) -> int:
        """Delete turns from what is kept of responses and conversations, the log, this memory and those of other
        models; how many kept items those were. A kill on the way leaves none half deleted: kept copies go first, so
        that it can be asked for again, and what is gone from the log leaves a memory before it is used again."""
        self._told_forgotten()
        num_kept = self.copies.delete(turns)
        self._note_what_is_held(turns)
        self.log.forget(turns)
        self._drop_outdated()
        return num_kept + self.copies.delete(turns)  # also of an answer that was being kept meanwhile

    def forget_all(self) -> NumCopies:
        """Delete every turn, the memories made of them, and all responses and conversations; what those were."""
        self._told_forgotten()
        discard(self.directory)
        copies = self.copies.delete_all()
        self.log.forget(self.log.all())
        self._close_session()
        try:
            for place in self._places():
                self._drop_place(place)
        finally:  # a disk that refuses leaves a memory that can be used
            self.session, self._names, self._refused = self._open_session(), None, {}
        return copies

    def take_over(self, rows: Rows, *, restore: bool = False) -> Taken:
        """Add what an archive or another program holds; it waits to be taken in. Arguments as `importing.take_in`."""
        return take_in(self.directory, rows, self.log, restore=restore)

    def correct(self, turn: LoggedTurn, text: str, reason: str | None = None) -> LoggedTurn:
        """Write a version in place of a turn; the one before leaves the memory and stays in the log."""
        self._told_forgotten()
        self._note_what_is_held([turn])
        return self.log.correct(turn, text, reason, utc_now())

    def _note_what_is_held(self, turns: Sequence[LoggedTurn]) -> None:
        """So that `_drop_outdated` finds what a full disk kept from being noted."""
        for turn in turns:
            if turn.name in self.names:
                self.log.note_held(turn, self.place)

    def _drop_outdated(self) -> None:
        """Delete from the memory what the log does not say any more. Memories of other models that hold such are
        deleted whole: they are made anew from the log when they are wanted."""
        for place in self.log.memories_outdated():
            if place != self.place:
                self._drop_place(place)
                continue
            turns = self.log.outdated(place)
            held = [turn for turn in turns if turn.name in self.names]
            for turn in held:
                self.session.delete(turn.name)
                self.names.discard(turn.name)
            if held:
                self.session.save()
            for turn in turns:
                self.log.note_dropped(place, turn)

    def _drop_place(self, place: str) -> None:
        """Delete a memory's directory: under another name first, so that a kill leaves no part of a memory."""
        aside = self.directory / f"{ASIDE}{place}"
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.replace(self.directory / place, aside)
            shutil.rmtree(aside)
        self.log.note_dropped(place)

    def _places(self) -> list[str]:
        """Directories of memories, of this and other models."""
        return sorted(path.name for path in self.directory.iterdir() if path.is_dir() and path.name[0] != ".")

    def _open_session(self) -> AnySession:
        for left in self.directory.glob(f"{ASIDE}*"):
            shutil.rmtree(left)
        place = self.directory / self.place
        if (place / IMPORTED).exists():
            return self._open_imported(place)
        if not place.exists():
            self.log.note_dropped(self.place)
        return self.model.session(place)

    def _open_imported(self, place: Path) -> AnySession:
        """A memory that came with an archive: taken over if it is of this model and holds nothing that the log does not
        say, else made anew from the log."""
        with suppress(LtmError):
            session = self.model.session(place)
            if {info.name for info in session.documents} <= {
                turn.name for turn in self.log.in_force((*ROLES, DOCUMENT))
            }:
                (place / IMPORTED).unlink()
                return session
            close_session(session)
        self._drop_place(self.place)
        return self.model.session(place)

    @property
    def names(self) -> set[str]:
        """Of the documents in the memory."""
        if self._names is None:
            self._names = {info.name for info in self.session.documents}
        return self._names

    def close(self) -> None:
        """Give the files back; all is on the disk already."""
        self.log.close()
        self._close_session()

    def _close_session(self) -> None:
        close_session(self.session)


def close_session(session: AnySession) -> None:
    """Give a session's files back."""
    close = getattr(session.memory, "close", None)
    if close is not None:
        close()
