"""What of a user an archive holds, row by row: turns with their times and versions, kept conversations and responses.

Rows are checked when they are read: an archive may come from anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ltm.data.documents import check_text
from ltm.errors import LtmError
from ltm.serve.kept_copies import own_hash
from ltm.serve.response_store import Kept, ResponseStore
from ltm.serve.turn_log import TurnLog, chain

MOST_TEXT = 4_000_000
"""Characters of a turn."""
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[str, StringConstraints(pattern=r"^\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\dZ$")]
Id = Annotated[str, StringConstraints(pattern=r"^[a-z]+_[0-9A-Za-z_-]{1,100}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class ArchiveRow(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TurnRow(ArchiveRow):
    """A turn as `TurnLog` has it; forgotten: known by its hash alone."""

    hash: Hash
    parent: Literal[""] | Hash
    role: Literal["user", "assistant", "document"]
    text: Annotated[str, StringConstraints(max_length=MOST_TEXT)]
    time: Time
    session: Name | None = None
    first: Hash
    replaced: Time | None = None
    reason: Annotated[str, StringConstraints(max_length=MOST_TEXT)] | None = None
    forgotten: bool = False

    def check(self, where: str) -> None:
        """Raise LtmError for a text that is none, and a hash that is not of what it says."""
        check_text(self.text, where)
        check_text(self.reason or "", where)
        if self.forgotten and self.text:
            raise LtmError(f"{where} is forgotten and has a text; nothing was taken in")
        if self.parent and not self.forgotten:
            ((_, own),) = chain([(self.role, self.text)], after=self.parent)
            if own != self.hash:
                raise LtmError(f"{where} is not what its hash says; nothing was taken in")
        elif not self.forgotten and not self.text.strip():
            raise LtmError(f"{where} is empty; nothing was taken in")


class ConversationRow(ArchiveRow):
    table: Literal["conversations"] = "conversations"
    id: Id
    created: Annotated[int, Field(ge=0, lt=2**40)]
    metadata: dict[str, str]


class ResponseRow(ArchiveRow):
    table: Literal["responses"] = "responses"
    id: Id
    created: Annotated[int, Field(ge=0, lt=2**40)]
    previous: Id | None
    conversation: Id | None
    session: Name | None
    object: dict[str, Any]


class ItemRow(ArchiveRow):
    table: Literal["items"] = "items"
    id: Id
    created: Annotated[int, Field(ge=0, lt=2**40)]
    response: Id | None
    conversation: Id | None
    is_output: bool
    after: Hash | None
    item: dict[str, Any]

    def check(self, where: str) -> None:
        """Raise LtmError for an item that cannot be shown or gone on from."""
        try:
            sound = self.item.get("id") == self.id and isinstance(self.item.get("type"), str)
            own_hash(Kept(self.item, self.after))
        except Exception:
            sound = False
        if not sound:
            raise LtmError(f"{where} is no item of a conversation; nothing was taken in")


AnyKeptRow = ConversationRow | ResponseRow | ItemRow
KeptRow = Annotated[AnyKeptRow, Field(discriminator="table")]


@dataclass(frozen=True)
class Rows:
    """All rows of one user, in the order they came."""

    turns: Sequence[TurnRow] = ()
    kept: Sequence[AnyKeptRow] = ()


@dataclass
class Taken:
    """What an import did: new turns; those that were there already, or are known to have been deleted; new
    conversations, responses and kept items."""

    turns: int = 0
    known: int = 0
    deleted: int = 0
    conversations: int = 0
    responses: int = 0
    items: int = 0


# from a log and a store

KINDS = (ConversationRow, ResponseRow, ItemRow)


def turn_rows(log: TurnLog) -> Iterator[TurnRow]:
    """Every turn of a log, forgotten ones as hashes."""
    columns = _columns(TurnRow)
    for values in log.database.run(f"SELECT {', '.join(columns)} FROM turns ORDER BY number"):
        row = dict(zip(columns, values, strict=True))
        yield TurnRow(**{**row, "forgotten": bool(row["forgotten"])})


def kept_rows(store: ResponseStore) -> Iterator[AnyKeptRow]:
    """Every conversation, response and item of a store."""
    for kind in KINDS:
        columns = _columns(kind)
        statement = f"SELECT {', '.join(columns)} FROM {kind.model_fields['table'].default} ORDER BY rowid"
        for values in store.database.run(statement):
            yield kind(**{name: _plain(name, value) for name, value in zip(columns, values, strict=True)})


def _columns(kind: type[ArchiveRow]) -> list[str]:
    return [name for name in kind.model_fields if name != "table"]


def _plain(name: str, value: Any) -> Any:
    """A value of a column as a row has it."""
    return (
        json.loads(value) if name in ("metadata", "object", "item") else bool(value) if name == "is_output" else value
    )


# into a log and a store


def merge_turns(log: TurnLog, rows: Iterable[TurnRow], restore: bool, taken: Taken) -> None:
    """Add turns that are not there, in one transaction. restore: also what is known to have been deleted."""
    columns, firsts = _columns(TurnRow), []
    with log.database.transaction():
        alone = {turn.text for turn in log.in_force() if turn.is_alone and turn.hash == turn.first}
        for row in rows:
            is_said = not row.parent and row.hash == row.first and row.text in alone
            if _is_new(log, row, is_said, restore, taken):
                log.database.run(
                    f"INSERT OR REPLACE INTO turns ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                    [getattr(row, name) for name in columns],
                )
                firsts.append(row.first)
        for first in dict.fromkeys(firsts):
            _one_in_force(log, first)


def _is_new(log: TurnLog, row: TurnRow, is_said: bool, restore: bool, taken: Taken) -> bool:
    """is_said: whether an item says the same, that was added by itself."""
    select = "SELECT hash, forgotten FROM turns WHERE"
    found = dict(log.database.run(f"{select} first = ?", (row.first,)))
    found |= dict(log.database.run(f"{select} hash = ?", (row.hash,)))
    was_deleted = bool(found.get(row.hash, bool(found) and all(found.values())))
    if found.get(row.hash) == 0 or (row.forgotten and found) or (is_said and not row.forgotten):
        taken.known += 1
        return False
    if was_deleted and not row.forgotten and not restore:
        taken.deleted += 1
        return False
    taken.turns += not row.forgotten
    return True


def _one_in_force(log: TurnLog, first: str) -> None:
    """Of all versions of a turn the latest is in force; the others were replaced when the next one came."""
    rows = log.database.run("SELECT number, time FROM turns WHERE NOT forgotten AND first = ?", (first,))
    ordered = sorted(rows, key=lambda row: (row[1], row[0]))
    ends = [*(time for _, time in ordered[1:]), None]
    for (number, _), replaced in zip(ordered, ends, strict=bool(ordered)):
        log.database.run("UPDATE turns SET replaced = ? WHERE number = ?", (replaced, number))


def merge_kept(store: ResponseStore, log: TurnLog, rows: Iterable[AnyKeptRow], taken: Taken) -> None:
    """Add what is not there, in one transaction; not what was deleted of the log."""
    with store.database.transaction():
        for row in rows:
            if isinstance(row, ItemRow) and _is_forgotten(log, own_hash(Kept(row.item, row.after))):
                taken.deleted += 1
            elif _add(store, row):
                setattr(taken, row.table, getattr(taken, row.table) + 1)


def _add(store: ResponseStore, row: AnyKeptRow) -> bool:
    """Whether it was not there."""
    columns = _columns(type(row))
    if store.database.value(f"SELECT 1 FROM {row.table} WHERE id = ?", (row.id,)):
        return False
    values = [getattr(row, name) for name in columns]
    store.database.run(
        f"INSERT INTO {row.table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        [json.dumps(value) if isinstance(value, dict) else value for value in values],
    )
    return True


def _is_forgotten(log: TurnLog, own: str | None) -> bool:
    return bool(log.database.value("SELECT forgotten FROM turns WHERE hash = ?", (own,)))
