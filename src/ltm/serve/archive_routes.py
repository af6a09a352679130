"""GET /v1/memory/export and POST /v1/memory/import: all of a user as one zip, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ltm.serve.access import BODY_SECONDS
from ltm.serve.archive import PIECE, write_archive
from ltm.serve.data_directory import rows_of
from ltm.serve.errors import ApiError, invalid
from ltm.serve.importers import read_export
from ltm.serve.in_memory import in_memory
from ltm.serve.keys import stamp, utc_now
from ltm.serve.memory_routes import READ, WRITE, Fields, asked_of
from ltm.serve.response_store import ResponseStore
from ltm.serve.user_memory import UserMemory

if TYPE_CHECKING:
    from ltm.serve.app import Server

UNPACKED = 10
"""Times the most bytes of an upload, to which one may unpack."""


class _Import(Fields):
    only: str | None = None
    restore: bool = False


async def export(request: Request) -> Response:
    """GET /v1/memory/export: what was said and what is kept; memories are made anew from it."""
    asked = await asked_of(request, READ)
    file = TemporaryFile(dir=asked.server.settings.directory)  # noqa: SIM115 - closed when it was sent

    def write(memory: UserMemory) -> None:
        with closing(ResponseStore(memory.directory, make=False)) as store:
            write_archive(file, rows_of(memory.log, store))

    try:
        await in_memory(asked.server, asked.caller, write)
    except BaseException:
        file.close()
        raise
    headers = {
        "content-disposition": f'attachment; filename="memory-{stamp(utc_now())[:10]}.zip"',
        "content-length": str(file.tell()),
    }
    return StreamingResponse(_pieces(file), 200, headers, "application/zip", BackgroundTask(file.close))


async def take_in(request: Request) -> Response:
    """POST /v1/memory/import: the file itself as the body."""
    asked = await asked_of(request, WRITE, _Import)
    server: Server = asked.server
    with TemporaryFile(dir=server.settings.directory) as file:
        await receive(request, file, server.settings.max_upload)
        file.seek(0)
        most = UNPACKED * server.settings.max_upload
        read = await run_in_threadpool(read_export, file, most, asked.fields.only)
    restore = asked.fields.restore
    taken = await in_memory(server, asked.caller, lambda memory: memory.take_over(read.rows, restore=restore))
    return JSONResponse({"object": "memory.imported", "kind": read.kind, **asdict(taken)})


async def receive(request: Request, file: IO[bytes], most: int) -> None:
    """Write a body to a file. Raises ApiError: 413 for more bytes, 408 where none come for long."""
    told, size = request.headers.get("content-length", ""), 0
    if told.isdecimal() and int(told[:20]) > most:
        raise _too_large(most)
    pieces = request.stream().__aiter__()
    while True:
        try:
            piece = await asyncio.wait_for(pieces.__anext__(), BODY_SECONDS)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise ApiError(408, f"nothing of the body came for {BODY_SECONDS:.0f} seconds", "timeout") from None
        except ClientDisconnect:
            raise invalid("the client went away") from None
        size += len(piece)
        if size > most:
            raise _too_large(most)
        file.write(piece)


def _too_large(most: int) -> ApiError:
    return ApiError(
        413, f"the upload is larger than {most:,} bytes; send less, or raise --max-upload", "body_too_large"
    )


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(PIECE):
        yield piece


ARCHIVE_ROUTES = [
    Route("/v1/memory/export", export, methods=["GET"]),
    Route("/v1/memory/import", take_in, methods=["POST"]),
]
