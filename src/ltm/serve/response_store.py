"""What a user's responses and conversations hold, in the user's own directory: on the disk before a client hears of it.

An item (a message that somebody sent, or an answer) stands here once, for the response and the conversation that it
belongs to: what is deleted of one is gone from the other.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ltm.notes.database import Database
from ltm.serve.errors import ApiError

RESPONSES = "responses.sqlite3"
TABLES = ("items", "responses", "conversations")

Json = dict[str, Any]


class ResponseDatabase(Database):
    """Responses, conversations and their items, of one user."""

    KIND, APPLICATION_ID, VERSION = "store of responses", 0x6C746D72, 1  # "ltmr"
    SCHEMA = """
    CREATE TABLE conversations (id TEXT PRIMARY KEY, created INTEGER NOT NULL, metadata TEXT NOT NULL);
    CREATE TABLE responses (
        id TEXT PRIMARY KEY, created INTEGER NOT NULL, previous TEXT, conversation TEXT, session TEXT,
        object TEXT NOT NULL);
    CREATE INDEX responses_of_a_conversation ON responses (conversation);
    CREATE TABLE items (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created INTEGER NOT NULL, response TEXT,
        conversation TEXT, is_output INTEGER NOT NULL, after TEXT, item TEXT NOT NULL);
    CREATE INDEX items_of_a_response ON items (response);
    CREATE INDEX items_of_a_conversation ON items (conversation);
    """


@dataclass(frozen=True)
class Kept:
    """An item as it is kept. after: hash of all turns that were said before it (`turn_log.places`); None for one that
    nobody said."""

    item: Json
    after: str | None


@dataclass(frozen=True)
class History:
    """What a request goes on from. session: by which its turns are known in the log."""

    items: Sequence[Kept] = ()
    session: str | None = None

    @property
    def tail(self) -> tuple[Sequence[Kept], str | None]:
        """The items from the last one that somebody said, and the hash of all turns before it. That one is looked at
        again with what is new: which of two answers holds, is known when one of them is gone on from."""
        said = [number for number, one in enumerate(self.items) if one.after is not None]
        return (self.items[said[-1] :], self.items[said[-1]].after) if said else (self.items, None)


def new_id(kind: str) -> str:
    """An id that nobody can guess, such as resp_5f0c..."""
    return f"{kind}_{uuid.uuid4().hex}"


class ResponseStore:
    """The store in a user's directory; every call that returns is on the disk.

    directory: None: an empty one in memory. make: whether to make it where there is none; else it is such an empty one.

    >>> with closing(ResponseStore(directory)) as store: store.conversation("conv_1")  # doctest: +SKIP
    """

    def __init__(self, directory: Path | None, *, make: bool = True):
        file = None if directory is None else directory / RESPONSES
        is_there = file is not None and (make or file.exists())
        self.database = ResponseDatabase.open_or_make(file) if file and is_there else ResponseDatabase.new()

    def close(self) -> None:
        self.database.close()

    # responses

    def add(self, response: Json, items: Sequence[Kept], session: str | None) -> None:
        """Keep a response, and its items, in its conversation if it has one. Raises ApiError 404 for one that was
        deleted meanwhile."""
        whole = {name: value for name, value in response.items() if name != "output"}
        conversation = (response["conversation"] or {}).get("id")
        outputs = {item["id"] for item in response["output"]}
        row = (response["id"], int(response["created_at"]), response["previous_response_id"], conversation, session)
        with self.database.transaction():
            if conversation is not None:
                self.conversation(conversation)
            self.database.run("INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?)", (*row, json.dumps(whole)))
            for one in items:
                self._add_item(one, response["id"], conversation, is_output=one.item["id"] in outputs)

    def response(self, name: str) -> Json:
        """A response as it was answered. Raises ApiError 404."""
        found = self.database.value("SELECT object FROM responses WHERE id = ?", (name,))
        if found is None:
            raise not_found("response", name)
        output = self._items("response = ? AND is_output", name)
        return {**json.loads(found), "output": [one.item for one in output]}

    def delete_response(self, name: str) -> None:
        """Delete a response; items that are in a conversation stay there. Raises ApiError 404."""
        self.response(name)
        with self.database.transaction():
            self.database.run("DELETE FROM responses WHERE id = ?", (name,))
            self.database.run("DELETE FROM items WHERE response = ? AND conversation IS NULL", (name,))
            self.database.run("UPDATE items SET response = NULL WHERE response = ?", (name,))

    def history_of_response(self, name: str) -> History:
        """All items up to a response, back to the first one or to one that was deleted. Raises ApiError 404."""
        statement = "SELECT previous, session, conversation FROM responses WHERE id = ?"
        pieces: list[list[Kept]] = []
        session, following = None, name
        while rows := self.database.run(statement, (following,)):
            previous, kept_session, conversation = rows[0]
            session = kept_session if not pieces else session
            own = self._up_to(conversation, following) if conversation else self._items("response = ?", following)
            pieces.append(own)
            if conversation or previous is None:
                break
            following = previous
        if not pieces:
            raise not_found("response", name, "previous_response_id")
        return History([one for piece in reversed(pieces) for one in piece], session)

    def _up_to(self, conversation: str, response: str) -> list[Kept]:
        """Items of a conversation up to a response in it."""
        last = self.database.value("SELECT max(number) FROM items WHERE response = ?", (response,)) or 0
        return self._items("conversation = ? AND number <= ?", conversation, last)

    # conversations

    def add_conversation(self, metadata: Json) -> str:
        """A new conversation; its id."""
        name = new_id("conv")
        row = (name, int(time.time()), json.dumps(metadata))
        self.database.run("INSERT INTO conversations VALUES (?, ?, ?)", row)
        return name

    def conversation(self, name: str) -> Json:
        """A conversation as clients see it. Raises ApiError 404."""
        rows = self.database.run("SELECT created, metadata FROM conversations WHERE id = ?", (name,))
        if not rows:
            raise not_found("conversation", name)
        return {"id": name, "object": "conversation", "created_at": rows[0][0], "metadata": json.loads(rows[0][1])}

    def update_conversation(self, name: str, metadata: Json) -> Json:
        """Give it other metadata. Raises ApiError 404."""
        self.database.run("UPDATE conversations SET metadata = ? WHERE id = ?", (json.dumps(metadata), name))
        return self.conversation(name)

    def delete_conversation(self, name: str) -> None:
        """Delete it with its items and the responses in it."""
        with self.database.transaction():
            self.database.run("DELETE FROM conversations WHERE id = ?", (name,))
            self.database.run("DELETE FROM items WHERE conversation = ?", (name,))
            self.database.run("DELETE FROM responses WHERE conversation = ?", (name,))

    def add_items(self, conversation: str, items: Sequence[Kept]) -> None:
        """Put items at the end of a conversation. Raises ApiError 404."""
        with self.database.transaction():
            self.conversation(conversation)
            for one in items:
                self._add_item(one, None, conversation, is_output=False)

    def history_of_conversation(self, name: str) -> History:
        """All of its items. Raises ApiError 404."""
        self.conversation(name)
        return History(self._items("conversation = ?", name), name)

    def conversation_item(self, conversation: str, item: str) -> Kept:
        """One item of a conversation. Raises ApiError 404."""
        self.conversation(conversation)
        found = self._items("conversation = ? AND id = ?", conversation, item)
        if not found:
            raise not_found("item", item)
        return found[0]

    def delete_item(self, conversation: str, item: str) -> None:
        """Delete an item, from the response that it is of, too."""
        self.database.run("DELETE FROM items WHERE conversation = ? AND id = ?", (conversation, item))

    # both

    def page(self, owner: str, name: str, after: str | None, limit: int, order: str) -> Json:
        """A list of items, as clients page through it. owner: "response" (what was sent for it) or "conversation";
        after: id of the item before the first; order: "asc", oldest first, or "desc"."""
        whose = "response = ? AND NOT is_output" if owner == "response" else "conversation = ?"
        values: list[Any] = [name]
        if after is not None:
            number = self.database.value(f"SELECT number FROM items WHERE id = ? AND {whose}", (after, name))
            if number is None:
                raise not_found("item", after, "after")
            whose += f" AND number {'>' if order == 'asc' else '<'} ?"
            values.append(number)
        found = self._items(f"{whose}", *values, order=order, limit=limit + 1)
        data = [one.item for one in found[:limit]]
        ids = [item["id"] for item in data] or [None]
        return {"object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": len(found) > limit}

    def forget_before(self, moment: datetime) -> None:
        """Delete responses and items of before a time."""
        old = (int(moment.timestamp()),)
        with self.database.transaction():
            self.database.run("DELETE FROM responses WHERE created < ?", old)
            self.database.run("DELETE FROM items WHERE created < ?", old)

    # what a user wants gone

    def said_after(self, places: Collection[str]) -> Iterator[tuple[int, Kept]]:
        """Every item that was said at one of some places, the hashes of all turns before them, with its number."""
        for number, after in self.database.run("SELECT number, after FROM items WHERE after IS NOT NULL"):
            if after in places:
                item = self.database.value("SELECT item FROM items WHERE number = ?", (number,))
                yield number, Kept(json.loads(item), after)

    def delete_items(self, numbers: Sequence[int]) -> int:
        """Delete items by number; how many those were."""
        with self.database.transaction():
            self.database.run_many("DELETE FROM items WHERE number = ?", [(number,) for number in numbers])
        return len(numbers)

    def delete_all(self) -> tuple[int, int, int]:
        """Delete everything; how many items, responses and conversations those were."""
        with self.database.transaction():
            counts = [self.database.value(f"SELECT count(*) FROM {name}") for name in TABLES]
            for name in TABLES:
                self.database.run(f"DELETE FROM {name}")
        return counts[0], counts[1], counts[2]

    def num_holding(self, words: str) -> int:
        """Items whose text holds some words."""
        written = json.dumps(words)[1:-1]
        return self.database.value("SELECT count(*) FROM items WHERE instr(item, ?)", (written,))

    def _add_item(self, kept: Kept, response: str | None, conversation: str | None, *, is_output: bool) -> None:
        values = (kept.item["id"], int(time.time()), response, conversation, is_output, kept.after)
        self.database.run(
            "INSERT INTO items (id, created, response, conversation, is_output, after, item) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*values, json.dumps(kept.item)),
        )

    def _items(self, condition: str, *values: Any, order: str = "asc", limit: int = -1) -> list[Kept]:
        statement = f"SELECT item, after FROM items WHERE {condition} ORDER BY number {order} LIMIT ?"
        return [Kept(json.loads(item), after) for item, after in self.database.run(statement, (*values, limit))]


def not_found(kind: str, name: str, param: str | None = None) -> ApiError:
    """What another user's is told as, too: nobody learns that it is there."""
    return ApiError(404, f"there is no {kind} {name[:80]!r} of yours", f"{kind}_not_found", param)
