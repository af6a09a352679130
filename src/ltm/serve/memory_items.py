"""What can be done with what is remembered of one user: add, search, list, read, correct, delete.

An item is a turn of the user's log, said in a conversation or added by itself; all its versions have one id. The routes
under `/v1/memory` and the tools of the MCP server are this, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from ltm.data.documents import check_text
from ltm.serve.audit import AuditEvent, audit_events
from ltm.serve.errors import ApiError, invalid
from ltm.serve.kept_copies import NumCopies
from ltm.serve.keys import stamp
from ltm.serve.probe import Probe, probe
from ltm.serve.turn_log import LoggedTurn
from ltm.serve.user_memory import UserMemory

MOST_CHARS = 100_000
"""Of an item's text; documents are no items."""
MOST_FOUND, MOST_LISTED, AROUND, MOST_EVENTS = 50, 100, 2, 1000
"""Hits of a search, items of a page, turns before and after an item that is read, events of a page."""


@dataclass(frozen=True)
class MemoryItem:
    """id; text; source: who said it, user or assistant, or document; time: when (ISO 8601, UTC); content_sha256: of the
    text."""

    id: str
    text: str
    source: str
    time: str
    content_sha256: str


@dataclass(frozen=True)
class FoundItem(MemoryItem):
    """score: the higher the better, among the hits of one search."""

    score: float


@dataclass(frozen=True)
class ItemVersion(MemoryItem):
    """version: its own id; replaced: when another version came in its place, None: in force; reason: why it was
    written; redacted: whether its text was taken out."""

    version: str
    replaced: str | None
    reason: str | None
    redacted: bool


@dataclass(frozen=True)
class ItemInContext:
    """An item, and the turns of its conversation around it, in order, itself among them."""

    item: MemoryItem
    turns: list[MemoryItem]


@dataclass(frozen=True)
class ItemPage:
    """items; has_more: whether others come after the last."""

    items: list[MemoryItem]
    has_more: bool


@dataclass(frozen=True)
class Receipt:
    """What was deleted: items, their versions, copies of them in kept responses and conversations; probe: whether any
    of it is still found."""

    id: str | None
    items: int
    versions: int
    copies: NumCopies = field(default_factory=NumCopies)
    probe: Probe = field(default_factory=Probe)


class MemoryItems:
    """Operations on a user's memory, in a block of `Users.using`. Raises ApiError: 404 for an id that is not this
    user's, 409 for a precondition that fails, 400 for an argument that cannot be.

    >>> with users.using(caller) as memory: MemoryItems(memory).add("My cat is Tom.").id  # doctest: +SKIP
    """

    def __init__(self, memory: UserMemory):
        self.memory, self.log = memory, memory.log

    def add(self, text: str) -> MemoryItem:
        """Remember a text, as said by the user, in no conversation; it is found at once. One that was added before is
        given back as it is."""
        turn = self.memory.add(checked_text(text))
        self._take_in(turn)
        return _item(turn)

    def search(self, query: str, k: int = 8, since: str | None = None, until: str | None = None) -> list[FoundItem]:
        """Items that fit a query, best first; since, until: only what was said from then on, and before then."""
        query, start, end = checked_text(query, "query"), _time(since, "since"), _time(until, "until")
        _check_count(k, MOST_FOUND, "k")
        has_times = start is not None or end is not None
        count = max(4 * k, self.memory.num_turns * 8 if has_times else 0)  # several passages may be of one item
        found: dict[str, FoundItem] = {}
        for passage in self.memory.session.search(query, count):
            turn = self.log.by_name(passage.document or "")
            if turn is None or turn.id in found or not (start or "") <= turn.time < (end or "~"):
                continue
            found[turn.id] = FoundItem(**_fields(turn), score=round(float(passage.weight), 6))
            if len(found) == k:
                break
        return list(found.values())

    def page(self, after: str | None = None, limit: int = 20, order: str = "asc") -> ItemPage:
        """Items in the order they were said, or (order "desc") the newest first; after: the id of the last one of the
        page before."""
        _check_count(limit, MOST_LISTED, "limit")
        if order not in ("asc", "desc"):
            raise invalid(f"order={order[:20]!r}; use asc or desc", "order")
        if after is not None and not after.isascii():
            raise _missing(after, "after")
        try:
            turns = self.log.page(limit + 1, after, order == "desc")
        except KeyError:
            raise _missing(after or "", "after") from None
        return ItemPage(list(map(_item, turns[:limit])), len(turns) > limit)

    def said_by_user(self) -> list[MemoryItem]:
        """Every item that the user said or added."""
        return [_item(turn) for turn in self.log.in_force(["user"])]

    def one(self, item: str) -> ItemInContext:
        """An item and what was said around it."""
        turn = self._turn(item)
        return ItemInContext(_item(turn), list(map(_item, self.log.around(turn, AROUND))))

    def history(self, item: str) -> list[ItemVersion]:
        """All versions, oldest first, the last one in force."""
        return [_version(turn) for turn in self.log.all_versions(self._turn(item))]

    def redact(self, item: str, version: str) -> ItemVersion:
        """Take the text out of a version that was replaced, from log, kept copies and disk; that there was one, and
        when, stays. One that was redacted stays so."""
        turn = self._turn(item)
        found = [one for one in self.log.all_versions(turn) if one.version == version]
        if not found:
            raise ApiError(404, f"there is no version {version[:40]!r} of {item}", "memory_not_found", "version")
        if found[0].hash == turn.hash:
            raise invalid(f"{version} is in force; correct the item first, or delete it", "version")
        if found[0].text:
            self.memory.forget(found)
        return _version(replace(found[0], text="", reason=None))

    def events(self, after: int = 0, since: str | None = None, limit: int = 100) -> list[AuditEvent]:
        """What happened to items, oldest first, without texts; after: number of the last event of the page before."""
        _check_count(limit, MOST_EVENTS, "limit")
        return audit_events(self.log.database, limit, after, _time(since, "since") or "")

    def correct(self, item: str, text: str, reason: str | None = None, content_sha256: str | None = None) -> MemoryItem:
        """Put a version in an item's place; the one before is in the history and not found any more. content_sha256:
        of the text that is corrected; where another one is in force, 409. The same text again changes nothing."""
        turn, text = self._turn(item), checked_text(text)
        if reason is not None:
            reason = checked_text(reason, "reason")
        if text == turn.text:
            return _item(turn)
        if content_sha256 is not None and content_sha256 != _sha256(turn.text):
            raise ApiError(409, f"{item} has another text by now; read it again", "memory_conflict", "content_sha256")
        version = self.memory.correct(turn, text, reason)
        self._take_in(version)
        return _item(version)

    def delete(self, item: str) -> Receipt:
        """Delete an item with all its versions, from memory, log and disk."""
        return replace(self.delete_all_of([item]), id=item)

    def delete_all_of(self, items: Sequence[str]) -> Receipt:
        """Delete some items; all of them, or none where one is not there."""
        turns = [version for item in dict.fromkeys(items) for version in self.log.versions(self._turn(item))]
        return replace(receipt_of(self.memory, turns, None), items=len(set(items)))

    def delete_all(self) -> Receipt:
        """Delete everything, responses and conversations too."""
        turns = self.log.all()
        items = self.memory.num_turns
        copies = self.memory.forget_all()
        return Receipt(None, items, len(turns), copies, probe(self.memory, turns))

    def _turn(self, item: str) -> LoggedTurn:
        turn = self.log.by_id(item) if item.isascii() else None
        if turn is None:
            raise _missing(item, "id")
        return turn

    def _take_in(self, turn: LoggedTurn) -> None:
        """Have it in the memory. What the memory refuses stays in the log, and its writer is told."""
        self.memory.take_in()
        refusal = self.memory.refusal_of(turn)
        if refusal is not None:
            raise invalid(f"{turn.id} is logged, but cannot be read into the memory: {refusal}", "text")


def receipt_of(memory: UserMemory, turns: Sequence[LoggedTurn], name: str | None) -> Receipt:
    """Delete turns; what was deleted, and whether any of it is still found. name: what they are called together."""
    copies = NumCopies(memory.forget(turns))
    return Receipt(name, len({turn.first for turn in turns}), len(turns), copies, probe(memory, turns))


def checked_text(text: str, field: str = "text") -> str:
    """A text as it is remembered. Raises ApiError 400, or LtmError, for one that is none."""
    if not text.strip():
        raise invalid(f"{field} is empty; give some words", field)
    if len(text) > MOST_CHARS:
        raise invalid(f"{field} has {len(text):,} characters; give {MOST_CHARS:,} at most", field)
    return check_text(text, field)


def _fields(turn: LoggedTurn) -> dict[str, str]:
    return {
        "id": turn.id,
        "text": turn.text,
        "source": turn.role,
        "time": turn.time,
        "content_sha256": _sha256(turn.text),
    }


def _version(turn: LoggedTurn) -> ItemVersion:
    more = {"version": turn.version, "replaced": turn.replaced, "reason": turn.reason}
    return ItemVersion(**_fields(turn), **more, redacted=not turn.text)  # type: ignore[arg-type]


def _item(turn: LoggedTurn) -> MemoryItem:
    return MemoryItem(**_fields(turn))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _missing(item: str, param: str) -> ApiError:
    return ApiError(404, f"there is no item {item[:40]!r} in this memory", "memory_not_found", param)


def _check_count(count: int, most: int, param: str) -> None:
    if not 1 <= count <= most:
        raise invalid(f"{param}={count}; give 1 to {most}", param)


def _time(given: str | None, param: str) -> str | None:
    """A date, or date and time, as the log has times; without an offset it is in UTC."""
    if given is None:
        return None
    try:
        time = datetime.fromisoformat(given.replace("Z", "+00:00"))
        return stamp(time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc))
    except (ValueError, OverflowError):
        raise invalid(f"{param}={given[:40]!r} is no time; give one such as 2026-11-27T09:05:00Z", param) from None
