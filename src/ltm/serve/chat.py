"""POST /v1/chat/completions: a request checked, handed to the engine, and answered whole or as a stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ltm.serve.access import json_body, key_of
from ltm.serve.chat_request import ParsedChat, parse_chat
from ltm.serve.chat_wire import ChatWire
from ltm.serve.engine import ChatReply, ChatWork, Listener
from ltm.serve.errors import ApiError, api_error, invalid
from ltm.serve.identity import Caller, resolve
from ltm.serve.keys import ApiKey

if TYPE_CHECKING:
    from ltm.serve.app import Server

PING_SECONDS = 10
"""Between two comments that keep a connection alive while a prompt is read."""
START_SECONDS = 1.0
"""How long a stream waits for its first text before it begins: an error until then comes with its status."""
LOOK_SECONDS = 0.25
"""How often it is looked whether a client that waits for a whole answer is still there."""
SEND_SECONDS = 60
"""How long a client may take to accept an event."""


async def chat_completions(request: Request) -> Response:
    """The route."""
    server: Server = request.app.state.server
    key = key_of(request, server.keys, "chat")
    data = await json_body(request, server.settings.max_body)
    parsed = parse_chat(data)
    caller = resolve(key.principal, request.headers.items(), data)
    work = work_of(server, key, caller, parsed)
    user = caller.user if work.reads or work.writes else None
    wire = ChatWire(parsed.body.model or server.model.name, user, server.fingerprint)
    headers = {"x-ltm-ignored": ", ".join(parsed.ignored)} if parsed.ignored else {}
    answering = _Answering(server, work)
    if not parsed.body.stream:
        return JSONResponse(wire.whole(await answering.whole(request)), headers=headers)
    await answering.start()
    return EventSourceResponse(
        answering.events(wire, parsed.body.wants_usage),
        headers={**headers, "x-accel-buffering": "no"},
        ping=PING_SECONDS,
        send_timeout=SEND_SECONDS,
        client_close_handler_callable=answering.closed,
        sep="\n",
    )


def work_of(server: Server, key: ApiKey, caller: Caller, parsed: ParsedChat) -> ChatWork:
    """What the engine is to do. Raises ApiError: 403 where a key may not use memory as the request says it should, 404
    for a model that is not served."""
    body, model = parsed.body, server.model
    has_memory = server.has_memory(body.model) and caller.user is not None
    asked = body.memory
    if asked is not None and asked.method not in (None, model.memory):
        raise invalid(f"memory.method={asked.method[:40]!r}: this server's is {model.memory}", "memory.method")
    uses = {}
    for name, scope in (("read", "memory:read"), ("write", "memory:write")):
        said = asked is not None and name in asked.model_fields_set
        wanted = asked is None or getattr(asked, name)
        if said and wanted and not key.may(scope):
            raise ApiError(403, f"this key has no scope {scope}", "memory_forbidden", f"memory.{name}")
        uses[name] = has_memory and wanted and key.may(scope)
    return ChatWork(
        caller,
        parsed.messages,
        uses["read"],
        uses["write"],
        _options(server, parsed),
        body.n or 1,
        body.stops,
    )


def _options(server: Server, parsed: ParsedChat) -> dict[str, Any]:
    """Options of `Asking` and `Sampling`."""
    body, settings = parsed.body, server.settings
    most = body.max_completion_tokens or body.max_tokens or settings.max_tokens
    options: dict[str, Any] = {"max_new_tokens": min(most, settings.most_tokens), "instruction": ""}
    given = {"temperature": body.temperature, "top_p": body.top_p, "repetition_penalty": body.repetition_penalty}
    options |= {name: value for name, value in given.items() if value is not None}
    if body.seed is not None:
        options["seed"] = body.seed % 2**63
    if body.memory is not None and body.memory.k is not None:
        if server.model.memory == "text":
            raise invalid("memory.k has no effect on memory of text; leave it out", "memory.k")
        options["num_passages"] = body.memory.k
    return options


class _Answering:
    """An answer on its way from the engine's thread to one client."""

    def __init__(self, server: Server, work: ChatWork):
        self.server, self.work, self.began = server, work, time.perf_counter()
        self.loop, self.queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, str] | None]()
        self.listener, self.has_begun, self.is_done = Listener(self._heard), asyncio.Event(), asyncio.Event()
        self.future: Future[ChatReply] = server.engine.answer(work, self.listener)
        self.future.add_done_callback(lambda _: self._tell(None))

    def _heard(self, choice: int, text: str) -> None:
        self._tell((choice, text))

    def _tell(self, event: tuple[int, str] | None) -> None:
        """From the engine's thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: tuple[int, str] | None) -> None:
        if not self.has_begun.is_set() and event is not None:
            self.server.metrics.first_token.observe(time.perf_counter() - self.began)
        if event is None:
            self.is_done.set()
        self.has_begun.set()
        self.queue.put_nowait(event)

    async def closed(self, _: Any) -> None:
        """The client closed the connection."""
        self.leave()

    def leave(self) -> None:
        """Nobody listens any more."""
        self.listener.is_gone = True
        self.future.cancel()

    def reply(self) -> ChatReply:
        """Of the future that is done. Raises ApiError."""
        if self.future.cancelled():
            raise ApiError(503, "the server is stopping; come again", "overloaded")
        reply = self.future.result()
        self.server.count(reply)
        return reply

    async def whole(self, request: Request) -> ChatReply:
        """The reply, unless the client goes away before."""
        try:
            while not self.is_done.is_set():
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.is_done.wait(), LOOK_SECONDS)
                if await request.is_disconnected():
                    raise invalid("the client went away")
            return self.reply()
        finally:
            self.leave()

    async def start(self) -> None:
        """Wait a little for the first text; an error until then is raised."""
        try:
            await asyncio.wait_for(self.has_begun.wait(), START_SECONDS)
        except asyncio.TimeoutError:
            return
        except BaseException:
            self.leave()
            raise
        if self.is_done.is_set() and (self.future.cancelled() or self.future.exception() is not None):
            self.reply()

    async def events(self, wire: ChatWire, wants_usage: bool) -> AsyncIterator[dict[str, str]]:
        """Server-sent events; when the client goes away, the engine stops."""
        begun = set[int]()
        try:
            while (heard := await self.queue.get()) is not None:
                choice, text = heard
                if choice not in begun:
                    begun.add(choice)
                    yield _event(wire.first(choice))
                yield _event(wire.piece(choice, text))
            try:
                reply = self.reply()
            except Exception as error:  # the status is sent already
                yield _event(api_error(error).body)
                return
            for chunk in self._end(wire, reply, begun, wants_usage):
                yield _event(chunk)
            yield {"data": "[DONE]"}
        finally:
            self.leave()

    def _end(self, wire: ChatWire, reply: ChatReply, begun: set[int], wants_usage: bool) -> list[dict[str, Any]]:
        """The chunks after the last text."""
        chunks, last = [], len(reply.choices) - 1
        for number, choice in enumerate(reply.choices):
            if number not in begun:
                chunks.append(wire.first(number))
            chunks.append(wire.last(number, choice, reply, with_memory=number == last and not wants_usage))
        return [*chunks, wire.with_usage(reply)] if wants_usage else chunks


def _event(value: dict[str, Any]) -> dict[str, str]:
    return {"data": json.dumps(value, ensure_ascii=False)}
