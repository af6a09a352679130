"""What other programs export, as turns: mem0, ChatGPT, MCP's memory server. Times are kept where they have some.

Sources: mem0's memories as its API gives them (id, memory, user_id, created_at); ChatGPT's conversations.json, in which
each message names the one before it (mapping, current_node); memory.jsonl of modelcontextprotocol/servers. Each turn
has the same hash each time, so that a file is taken in once.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import IO, Any

from ltm.errors import LtmError
from ltm.serve.archive import DAMAGED, MANIFEST, Archive, read_archive
from ltm.serve.archive_rows import Rows, TurnRow
from ltm.serve.keys import stamp, utc_now
from ltm.serve.knowledge_graph import parsed_line, statements
from ltm.serve.turn_log import ROLES, chain

CONVERSATIONS = "conversations.json"
Json = dict[str, Any]


@dataclass(frozen=True)
class Read:
    """What a file holds. kind: ltm, mem0, chatgpt or mcp; archive: where it is one of ours."""

    kind: str
    rows: Rows
    archive: Archive | None = None


def read_export(file: IO[bytes], most: int, only: str | None = None) -> Read:
    """An archive of ours, or what another program exported, told by what it holds. most: bytes that it may unpack to;
    only: of several users in a file, the one whose memories are meant. Raises LtmError for what is none of these."""
    if not zipfile.is_zipfile(file):
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        kind, rows = _from_text(_decoded(b"" if size > most else file.read(), size, most), only)
        return Read(kind, rows)
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if MANIFEST not in names and CONVERSATIONS in names:
                size = archive.getinfo(CONVERSATIONS).file_size  # no more than that is ever unpacked
                data = b"" if size > most else archive.read(CONVERSATIONS)
                return Read("chatgpt", Rows(_chatgpt(_parsed(_decoded(data, size, most)))))
    except LtmError:
        raise
    except DAMAGED as error:
        raise LtmError(f"the zip is damaged ({error}); nothing was taken in") from None
    file.seek(0)
    found = read_archive(file, most)
    return Read("ltm", found.rows, found)


def _decoded(data: bytes, size: int, most: int) -> str:
    if size > most:
        raise LtmError(f"the file holds more than {most:,} bytes; nothing was taken in")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise LtmError("the file is neither a zip nor a text in UTF-8; nothing was taken in") from None


def _from_text(text: str, only: str | None) -> tuple[str, Rows]:
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and _is_line(lines[0]):
        return "mcp", Rows(_mcp([parsed_line(line, f"line {number}") for number, line in enumerate(lines, 1)]))
    data = _parsed(text)
    if isinstance(data, dict):
        data = next((data[name] for name in ("results", "memories") if isinstance(data.get(name), list)), [])
    if not isinstance(data, list) or not data or not all(isinstance(one, dict) for one in data):
        raise LtmError("the file holds none of what is known: an archive, mem0, ChatGPT, memory.jsonl")
    if all("mapping" in one for one in data):
        return "chatgpt", Rows(_chatgpt(data))
    if all(isinstance(one.get("memory"), str) for one in data):
        return "mem0", Rows(_mem0(data, only))
    raise LtmError("the file holds none of what is known: an archive, mem0, ChatGPT, memory.jsonl")


def _is_line(line: str) -> bool:
    try:
        return json.loads(line).get("type") in ("entity", "relation")
    except (ValueError, AttributeError, RecursionError):
        return False


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise LtmError("the file is no JSON; nothing was taken in") from None


def _mem0(memories: list[Json], only: str | None) -> list[TurnRow]:
    users = sorted({str(one["user_id"]) for one in memories if one.get("user_id") is not None})
    if only is None and len(users) > 1:
        raise LtmError(
            f"the file holds memories of {len(users)} users ({', '.join(users)[:200]}); say which one is meant"
        )
    mine = [one for one in memories if only is None or str(one.get("user_id")) == only]
    return _checked(lambda: (_alone("mem0", one.get("id"), one["memory"], one.get("created_at")) for one in mine))


def _mcp(lines: list[Json]) -> list[TurnRow]:
    return _checked(lambda: (_alone("mcp", text, text, None) for text in statements(lines)))


def _chatgpt(conversations: list[Json]) -> list[TurnRow]:
    """Of each conversation the branch that was shown last."""

    def rows() -> Iterator[TurnRow]:
        for one in sorted(conversations, key=lambda one: float(one.get("create_time") or 0)):
            yield from _conversation(one)

    return _checked(rows)


def _conversation(conversation: Json) -> Iterator[TurnRow]:
    session = f"chatgpt {conversation.get('conversation_id') or conversation['id']}"
    mapping, node = conversation["mapping"], conversation.get("current_node")
    messages: list[Json | None] = []
    while node is not None and len(messages) <= len(mapping):
        messages.append(mapping[node].get("message"))
        node = mapping[node].get("parent")
    said, begun = [], conversation.get("create_time")
    for message in filter(None, reversed(messages)):
        content = message.get("content") or {}
        text = "\n".join(part for part in content.get("parts") or [] if isinstance(part, str)).strip()
        hidden = (message.get("metadata") or {}).get("is_visually_hidden_from_conversation")
        if message["author"]["role"] in ROLES and content.get("content_type") == "text" and text and not hidden:
            said.append((message["author"]["role"], text, message.get("create_time") or begun))
    hashes = chain([(role, text) for role, text, _ in said], session)
    for (role, text, time), (parent, own) in zip(said, hashes, strict=True):
        yield TurnRow(hash=own, parent=parent, role=role, text=text, time=_time(time), session=session, first=own)


def _alone(kind: str, name: Any, text: str, time: Any) -> TurnRow:
    own = hashlib.sha256("\0".join(("imported", kind, str(name), text)).encode()).hexdigest()
    return TurnRow(hash=own, parent="", role="user", text=text, time=_time(time), first=own)


def _checked(make: Callable[[], Iterator[TurnRow]]) -> list[TurnRow]:
    """Turns that are sound. Raises LtmError."""
    try:
        rows = [row for row in make() if row.text.strip()]
        for number, row in enumerate(rows, 1):
            row.check(f"entry {number}")
    except LtmError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
        raise LtmError(
            f"the file is not of the form that it seems to be ({type(error).__name__}: {str(error)[:80]})"
        ) from None
    return rows


def _time(given: Any) -> str:
    """ISO 8601 or seconds since 1970; now, where there is none."""
    if given is None:
        return stamp(utc_now())
    if isinstance(given, str):
        time = datetime.fromisoformat(given.replace("Z", "+00:00"))
        return stamp(time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc))
    return stamp(datetime.fromtimestamp(float(given), timezone.utc))
