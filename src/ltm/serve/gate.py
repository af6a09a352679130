"""What stands before the routes of /v1: how much may be asked for, and that what is asked for again is done once.

A request is known again by its `Idempotency-Key`, or, where a client says that it tries again
(`x-stainless-retry-count` above 0, as the official clients do), by its body. What was answered is sent once more, byte
for byte, a stream, too.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ltm.serve.access import key_of, read_body
from ltm.serve.errors import ApiError, invalid
from ltm.serve.identity import Caller, resolve, with_namespace
from ltm.serve.keys import ApiKey
from ltm.serve.quotas import Allowance
from ltm.serve.replays import KEPT_SECONDS, KEPT_WITHOUT_KEY_SECONDS, MOST_BYTES, Replay, name_of

if TYPE_CHECKING:
    from ltm.serve.app import Server

ANSWERS = ("/v1/chat/completions", "/v1/responses")
"""That the model works for: so many at once."""
GROWING = (*ANSWERS, "/v1/conversations", "/v1/memory/items", "/v1/memory/documents", "/v1/memory/import")
"""Posts that add to what is remembered."""
REPLAYED = ("/v1/chat/completions", "/v1/responses", "/v1/conversations", "/v1/memory")
"""Writes of users' own, below these; never an administrator's, whose answers hold new keys."""
READING = ("/v1/memory/search", "/v1/memory/trace", "/v1/responses/input_tokens")
"""Posts that change nothing."""
MOST_KEY = 255
WAIT_SECONDS = 60.0
"""For the same request, that another connection has under way."""


class Gate:
    """An application behind the gate. Requests without a key that counts go through: the routes refuse them."""

    def __init__(self, app: ASGIApp, server: Server):
        self.app, self.server = app, server
        self.under_way: dict[str, asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not path_below(scope).startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        key = self._key(request)
        if key is None:
            await self.app(scope, receive, send)
            return
        is_json = request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
        body, data = b"", None
        if is_json and request.method not in ("GET", "HEAD"):
            body = await read_body(request, self.server.settings.max_body)
            receive, data = _again(body, receive), _json(body)
        caller = _caller(request, key, data)
        user = None if caller is None or caller.user is None else caller.turn
        allowance = self.server.quotas.admit(str(key.id), user)
        scope.setdefault("state", {})["allowance"] = allowance
        told = _with_headers(send, allowance)
        async with self._counted(request, allowance):
            await self._check_room(request, caller, data)
            is_read = is_json or request.method == "DELETE"  # an upload is left to its route
            known_by = _known_by(request, data) if is_read else None
            await self._once(request, key, caller, body, known_by, receive, told)

    def _key(self, request: Request) -> ApiKey | None:
        with suppress(ApiError):
            return key_of(request, self.server.keys)
        return None

    @asynccontextmanager
    async def _counted(self, request: Request, allowance: Allowance) -> AsyncIterator[None]:
        """A block that counts as an answer that is being given, if it is one."""
        if request.method != "POST" or path_below(request.scope) not in ANSWERS:
            yield
            return
        self.server.quotas.begin(allowance.names)
        try:
            yield
        finally:
            self.server.quotas.end(allowance.names)

    async def _check_room(self, request: Request, caller: Caller | None, data: Any) -> None:
        is_growing = request.method == "POST" and path_below(request.scope).startswith(GROWING)
        if caller is not None and caller.user is not None and is_growing and _writes(data):
            directory = self.server.users.directory_of(caller)
            await run_in_threadpool(self.server.quotas.check_room, directory)

    async def _once(
        self,
        request: Request,
        key: ApiKey,
        caller: Caller | None,
        body: bytes,
        known_by: tuple[str, str] | None,
        receive: Receive,
        send: Send,
    ) -> None:
        replays, path = self.server.users.replays, path_below(request.scope)
        is_write = request.method not in ("GET", "HEAD") and path.startswith(REPLAYED) and path not in READING
        if caller is None or caller.user is None or not is_write:
            await self.app(request.scope, receive, send)
            return
        owner = self.server.users.directory_of(caller).name
        if request.method == "DELETE":  # what is deleted is not to be asked for again
            await run_in_threadpool(replays.forget, owner)
        if known_by is None:
            await self.app(request.scope, receive, send)
            return
        has_key, asked = known_by[0] == "key", name_of(body.hex(), request.url.query)
        where = (str(key.id), owner, request.method, path_below(request.scope))
        name = name_of(*where, *(known_by if has_key else ("body", asked)))
        async with self._alone(name):
            is_first = known_by == ("tries", "0")
            kept = None if is_first else await run_in_threadpool(replays.find, name)
            if kept is not None:
                await _replay(kept, asked)(request.scope, receive, send)
                return
            seconds = KEPT_SECONDS if has_key else KEPT_WITHOUT_KEY_SECONDS
            keeping = _Keeping(self.server, name, owner, asked, seconds, send)
            await self.app(request.scope, receive, keeping.send)

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """A block that no other request of this name is in. Raises ApiError 503 where one does not end."""
        while (other := self.under_way.get(name)) is not None:
            try:
                await asyncio.wait_for(other.wait(), WAIT_SECONDS)
            except asyncio.TimeoutError:
                raise ApiError(503, "the same request is still under way; come again", "under_way") from None
        self.under_way[name] = asyncio.Event()
        try:
            yield
        finally:
            self.under_way.pop(name).set()


def path_below(scope: Scope) -> str:
    """A request's path below the one that the application lies at."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if path.startswith(f"{root}/") else path


class _Keeping:
    """Sends an answer on, and keeps it before its last byte goes out."""

    def __init__(self, server: Server, name: str, owner: str, asked: str, seconds: float, send: Send):
        self.server, self.name, self.owner, self.asked = server, name, owner, asked
        self.seconds, self.began, self.onward = seconds, time.monotonic(), send
        self.status, self.answer = 0, bytearray()
        self.headers: list[tuple[str, str]] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(name.decode(), value.decode("latin-1")) for name, value in message["headers"]]
        elif len(self.answer) <= MOST_BYTES:
            self.answer += message.get("body", b"")
            if not message.get("more_body") and self._is_whole():
                kept = [(name, value) for name, value in self.headers if name == "content-type" or name[:6] == "x-ltm-"]
                replay = Replay(self.asked, self.status, kept, bytes(self.answer))
                replays = self.server.users.replays
                await run_in_threadpool(replays.add, self.name, self.owner, replay, self.seconds, self.began)
        await self.onward(message)

    def _is_whole(self) -> bool:
        """Whether it can be sent again: nothing went wrong, and a stream came to its end."""
        if not 200 <= self.status < 300 or len(self.answer) > MOST_BYTES:
            return False
        if not any(name == "content-type" and "event-stream" in value for name, value in self.headers):
            return True
        ends = (b"data: [DONE]", b"event: response.completed", b"event: response.incomplete")
        return any(end in self.answer for end in ends)


def _replay(kept: Replay, asked: str) -> Response:
    """What was answered. Raises ApiError 409 where something else was asked."""
    if kept.body != asked:
        raise ApiError(409, "this Idempotency-Key came with another body; give each request its own", "key_reused")
    return Response(kept.answer, kept.status, headers={**dict(kept.headers), "x-ltm-replayed": "true"})


def _caller(request: Request, key: ApiKey, data: Any) -> Caller | None:
    """Whose a request is; None where the routes will say what is wrong with it."""
    named: Mapping[str, Any] = dict(request.query_params) if data is None else data if isinstance(data, dict) else {}
    if path_below(request.scope).startswith("/v1/memory"):
        named = with_namespace(named)
    with suppress(ApiError):
        return resolve(key.principal, request.headers.items(), named)
    return None


def _writes(data: Any) -> bool:
    """Whether a request lets what it says be remembered."""
    memory = data.get("memory") if isinstance(data, dict) else None
    return not isinstance(memory, dict) or memory.get("write") is not False


def _known_by(request: Request, data: Any) -> tuple[str, str] | None:
    """A request's Idempotency-Key, or that it counts how often it was tried; None: it is not to be known again."""
    given, tries = request.headers.get("idempotency-key"), request.headers.get("x-stainless-retry-count")
    if given is not None:
        if not 0 < len(given) <= MOST_KEY:
            raise invalid(f"Idempotency-Key has {len(given)} characters; give 1 to {MOST_KEY}", "Idempotency-Key")
        return "key", given
    return None if tries is None or not _writes(data) else ("tries", tries)


def _json(body: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read by its route."""
    is_read = False

    async def again() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send, allowance: Allowance) -> Send:
    async def told(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in allowance.headers.items():
                headers.setdefault(name, value)
        await send(message)

    return told
