"""An answer on its way from the engine's thread to one client, whole or piece by piece."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response

from ltm.serve.engine import ChatReply, ChatWork, Listener, Piece
from ltm.serve.errors import ApiError, invalid
from ltm.serve.quotas import Allowance

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


class Answering:
    """An answer that one client waits for; allowance: what its tokens are counted on.

    >>> reply = await Answering(server, work).whole(request)  # doctest: +SKIP
    """

    def __init__(self, server: Server, work: ChatWork, allowance: Allowance | None = None):
        self.server, self.work, self.allowance, self.began = server, work, allowance, time.perf_counter()
        self.heard_first: float | None = None
        self.ended = self.began
        self.loop, self.queue = asyncio.get_running_loop(), asyncio.Queue[Piece | None]()
        self.listener, self.has_begun, self.is_done = Listener(self._tell), asyncio.Event(), asyncio.Event()
        self.future: Future[ChatReply] = server.engine.answer(work, self.listener)
        self.future.add_done_callback(lambda _: self._tell(None))

    def _tell(self, event: Piece | None) -> None:
        """From the engine's thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: Piece | None) -> None:
        if not self.has_begun.is_set() and event is not None:
            self.heard_first = time.perf_counter()
            self.server.metrics.first_token.observe(self.heard_first - self.began)
        if event is None:
            self.ended = time.perf_counter()
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
        self.server.count(self.work.caller, reply, self.allowance)
        made = sum(choice.num_tokens for choice in reply.choices)
        if self.heard_first is not None and made > 1:
            self.server.metrics.each_token.observe((self.ended - self.heard_first) / (made - 1))
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

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What is new, as it comes; when the client goes away, the engine stops. `reply` holds after the last."""
        try:
            while (heard := await self.queue.get()) is not None:
                yield heard
        finally:
            self.leave()

    def stream(self, events: AsyncIterator[dict[str, str]], headers: dict[str, str]) -> Response:
        """A response of server-sent events."""
        return EventSourceResponse(
            events,
            headers={**headers, "x-accel-buffering": "no"},
            ping=PING_SECONDS,
            send_timeout=SEND_SECONDS,
            client_close_handler_callable=self.closed,
            sep="\n",
        )


def event(value: dict[str, Any], name: str | None = None) -> dict[str, str]:
    """A server-sent event; name: of its kind, where the protocol names them."""
    data = {"data": json.dumps(value, ensure_ascii=False)}
    return data if name is None else {"event": name, **data}
