"""Documents that a user gave to be read: each a session of pieces in the log of turns, in order, said by nobody.

So a piece is found by a search, deleted, exported, forgotten by a retention and made anew for another model as any turn
is; what is more, a document has a name, and is read piece by piece.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from ltm.serve.turn_log import CURRENT, DOCUMENT, LoggedTurn, TurnLog

PIECE_CHARS = 4000
"""Most characters of a piece: about 1,000 tokens, which a small model reads in a second or two of a processor."""
BREAKS = ("\n\n", "\n", ". ", " ")
"""Where a piece may end, best first."""
SESSION = re.compile(r"document (doc_[0-9a-f]{32}) ([0-9a-f]{16}) (.*)", re.DOTALL)


@dataclass(frozen=True)
class GivenDocument:
    """id; name; time: when it came; num_chars, num_pieces; num_unread: pieces that the memory does not hold yet."""

    id: str
    name: str
    time: str
    num_chars: int
    num_pieces: int
    num_unread: int


class DocumentLog:
    """The documents in a log. place: the memory that reads them.

    >>> DocumentLog(log, "text-tiny-llama").add("notes.txt", text, now)  # doctest: +SKIP
    """

    def __init__(self, log: TurnLog, place: str):
        self.log, self.place = log, place

    def add(self, name: str, text: str, now: datetime) -> GivenDocument:
        """Log a document, to be read; one of this name and text that is there is given back as it is."""
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        known = [one for one in self._found() if one[1:] == (digest, name)]
        if not known:
            known = [(f"doc_{uuid.uuid4().hex}", digest, name)]
            self.log.add(
                [(DOCUMENT, piece) for piece in pieces_of(text)], now, f"document {known[0][0]} {digest} {name}"
            )
        return self.one(known[0][0]) or GivenDocument(known[0][0], name, "", 0, 0, 0)

    def all(self) -> list[GivenDocument]:
        """All documents, oldest first."""
        rows = self.log.database.run(
            "SELECT session, min(time), sum(length(text)), count(*), "
            "sum(number NOT IN (SELECT turn FROM held WHERE memory = ?)) FROM turns "
            f"WHERE {CURRENT} AND role = ? AND session IS NOT NULL GROUP BY session ORDER BY min(number)",
            (self.place, DOCUMENT),
        )
        return [
            GivenDocument(found[1], found[3], *numbers)
            for session, *numbers in rows
            if (found := SESSION.fullmatch(session))
        ]

    def one(self, name: str) -> GivenDocument | None:
        """A document by its id."""
        return next((one for one in self.all() if one.id == name), None)

    def pieces(self, name: str) -> list[LoggedTurn]:
        """What is there of a document, versions that were corrected included."""
        sessions = [
            session for session in self._sessions() if (found := SESSION.fullmatch(session)) and found[1] == name
        ]
        return [turn for session in sessions for turn in self.log.of_session(session) if turn.role == DOCUMENT]

    def _found(self) -> list[tuple[str, str, str]]:
        return [(found[1], found[2], found[3]) for one in self._sessions() if (found := SESSION.fullmatch(one))]

    def _sessions(self) -> list[str]:
        statement = "SELECT DISTINCT session FROM turns WHERE NOT forgotten AND role = ? AND session IS NOT NULL"
        return [session for (session,) in self.log.database.run(statement, (DOCUMENT,))]


def pieces_of(text: str) -> Iterator[str]:
    """A text in pieces that end where a paragraph, a line, a sentence or a word does.

    >>> [len(piece) for piece in pieces_of("word " * 1000)]
    [3999, 999]
    """
    start = 0
    while start < len(text):
        end = start + PIECE_CHARS
        if end < len(text):
            found = (text.rfind(one, start + PIECE_CHARS // 2, end) + len(one) for one in BREAKS)
            end = next((place for place in found if place > start + PIECE_CHARS // 2), end)
        if piece := text[start:end].strip():
            yield piece
        start = end
