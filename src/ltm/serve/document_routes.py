"""Routes under /v1/memory/documents: a text file is read into a user's memory, listed, and deleted.

The file is on the disk before anything is answered. It is read piece by piece, each in its user's turn, so that nobody
waits for more than one piece; whoever sent it may watch or go.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ltm.data.documents import check_text
from ltm.serve.answering import PING_SECONDS
from ltm.serve.archive_routes import receive
from ltm.serve.document_log import DocumentLog, GivenDocument
from ltm.serve.errors import ApiError, api_error, invalid
from ltm.serve.identity import Caller
from ltm.serve.in_memory import in_memory
from ltm.serve.memory_items import Receipt, receipt_of
from ltm.serve.memory_routes import READ, WRITE, Fields, asked_of, receipt_body
from ltm.serve.user_memory import UserMemory

if TYPE_CHECKING:
    from ltm.serve.app import Server

MOST_CHARS, MOST_NAME, MOST_DOCUMENTS = 5_000_000, 200, 1000
"""Characters of a document and of its name; documents of a user."""
LOOK_SECONDS = 0.3
"""Between two looks at how far it is, for whoever watches."""


class _Upload(Fields):
    name: str


class Readers:
    """Who is reading for which user; at most one each.

    >>> server.readers.begin(caller)  # doctest: +SKIP
    """

    def __init__(self, server: Server):
        self.server = server
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, caller: Caller) -> None:
        """Read what waits of a user's documents, in the background; after a restart, too."""
        turn = repr(caller)
        if turn not in self._tasks:
            task = self._tasks[turn] = asyncio.create_task(self._read(caller))
            task.add_done_callback(lambda _: self._tasks.pop(turn, None))

    async def close(self) -> None:
        """Leave off; what is left is read when the memory is used again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def is_reading(self, caller: Caller) -> bool:
        return repr(caller) in self._tasks

    async def _read(self, caller: Caller) -> None:
        while await self._step(caller):
            pass

    async def _step(self, caller: Caller) -> int:
        """One use of the memory, in which a piece is read; how many are left."""
        while True:
            try:
                return await in_memory(self.server, caller, lambda memory: memory.num_unread)
            except ApiError as error:
                if error.status != 503:
                    raise
                await asyncio.sleep(1)  # many wait; this one has time


async def upload(request: Request) -> Response:
    """POST /v1/memory/documents?name=: the file itself as the body."""
    asked = await asked_of(request, WRITE, _Upload)
    server, name = asked.server, asked.fields.name
    if not name.strip() or len(name) > MOST_NAME or not name.isprintable():
        raise invalid(f"name is none; give 1 to {MOST_NAME} printable characters", "name")
    with TemporaryFile(dir=server.settings.directory) as file:
        await receive(request, file, server.settings.max_upload)
        file.seek(0)
        text = await run_in_threadpool(_text, file.read(), name)

    def add(memory: UserMemory) -> GivenDocument:
        if len(memory.documents.all()) >= MOST_DOCUMENTS:
            raise ApiError(413, f"there are {MOST_DOCUMENTS:,} documents; delete some first", "too_many_documents")
        return memory.add_document(name, text)

    made = await in_memory(server, asked.caller, add)
    server.readers.begin(asked.caller)
    if "text/event-stream" not in request.headers.get("accept", ""):
        return JSONResponse(_body(made))
    return EventSourceResponse(_progress(server, asked.caller, made), ping=PING_SECONDS, sep="\n")


async def _progress(server: Server, caller: Caller, made: GivenDocument) -> AsyncIterator[dict[str, str]]:
    """How far a document is, until it is read or deleted."""
    told = -1
    while True:
        try:
            found = await run_in_threadpool(_look, server, caller, made.id)
        except Exception as error:  # the status is sent already
            yield {"data": json.dumps(api_error(error).body)}
            return
        left = found.num_unread if found is not None else 0
        if found is not None and left and not server.readers.is_reading(caller):
            yield {"data": json.dumps(_unreadable(made).body)}
            return
        if left != told:
            told = left
            yield {
                "data": json.dumps({**_body(found or made), "done": made.num_pieces - left, "total": made.num_pieces})
            }
        if not left:
            return
        await asyncio.sleep(LOOK_SECONDS)


def _look(server: Server, caller: Caller, name: str) -> GivenDocument | None:
    """How far a document is, without the memory, which is being used."""
    with server.users.turn_log(caller) as log:
        return None if log is None else DocumentLog(log, server.model.place).one(name)


def _unreadable(made: GivenDocument) -> ApiError:
    why = "is logged, but not all of it can be read into the memory now; what is left is tried again later"
    return ApiError(503, f"{made.name} {why}", "overloaded")


async def list_documents(request: Request) -> Response:
    """GET /v1/memory/documents"""
    asked = await asked_of(request, READ)
    found = await in_memory(asked.server, asked.caller, lambda memory: memory.documents.all())
    if any(one.num_unread for one in found):
        asked.server.readers.begin(asked.caller)
    return asked.answer({"object": "list", "data": list(map(_body, found)), "has_more": False})


async def delete_document(request: Request) -> Response:
    """DELETE /v1/memory/documents/{id}"""
    asked, name = await asked_of(request, WRITE), request.path_params["id"]

    def delete(memory: UserMemory) -> Receipt:
        pieces = memory.documents.pieces(name)
        if not pieces:
            raise ApiError(404, f"there is no document {name[:40]!r} in this memory", "memory_not_found", "id")
        return receipt_of(memory, pieces, name)

    return asked.answer(receipt_body(await in_memory(asked.server, asked.caller, delete)))


def _text(data: bytes, name: str) -> str:
    """A file's text. Raises ApiError 400 and 413, LtmError for what is none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise invalid(f"{name} is no text in UTF-8; send a text file", "name", "unsupported_content") from None
    if len(text) > MOST_CHARS:
        raise ApiError(413, f"{name} has {len(text):,} characters; send {MOST_CHARS:,} at most", "body_too_large")
    if not text.strip():
        raise invalid(f"{name} is empty", "name")
    return check_text(text, name)


def _body(document: GivenDocument) -> dict[str, Any]:
    return {"object": "memory.document", **asdict(document)}


DOCUMENT_ROUTES = [
    Route("/v1/memory/documents", upload, methods=["POST"]),
    Route("/v1/memory/documents", list_documents, methods=["GET"]),
    Route("/v1/memory/documents/{id}", delete_document, methods=["DELETE"]),
]
