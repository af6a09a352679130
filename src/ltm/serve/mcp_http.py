"""MCP over HTTP, in the server: whose memory it is, key and headers say, as on every other route.

No session outlives its request, in neither era of the protocol: what another key could take over is not there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from ltm.serve.access import key_of
from ltm.serve.errors import ApiError, invalid
from ltm.serve.identity import Caller, resolve
from ltm.serve.in_memory import in_memory
from ltm.serve.keys import ApiKey
from ltm.serve.mcp_server import READ, WRITE, Reach, Result
from ltm.serve.memory_items import MemoryItems
from ltm.serve.settings import is_loopback

if TYPE_CHECKING:
    from ltm.serve.app import Server

WHO = "ltm.who"
"""Where a request's scope has its key and caller."""
_asking: ContextVar[tuple[ApiKey, Caller]] = ContextVar("asking")


class McpEndpoint:
    """An ASGI application at one path. make: the MCP server, from how it reaches memories and its middleware.

    >>> Route("/mcp", McpEndpoint(server, mcp_server))  # doctest: +SKIP
    """

    def __init__(self, server: Server, make: Callable[..., MCPServer]):
        self.server = server
        self._mcp = make(_reach(server), middleware=[_know_who])
        self._app = self._mcp.streamable_http_app(
            streamable_http_path="/",
            json_response=True,
            stateless_http=True,
            max_request_body_size=server.settings.max_body,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # `check_origin` does
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A block in which it answers."""
        async with self._mcp.session_manager.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        check_origin(request, self.server.settings.is_local)
        key = key_of(request, self.server.keys)
        if request.method != "POST":  # no session is kept, and no stream outlives its request
            raise ApiError(405, "this path takes POST alone; it has no stream to listen to", headers={"allow": "POST"})
        if not (key.may(READ) or key.may(WRITE)):
            raise ApiError(403, f"this key has neither scope {READ} nor {WRITE}", "insufficient_scope")
        caller = resolve(key.principal, request.headers.items(), {})
        if caller.user is None:
            raise invalid("this key speaks for many and the request names no user; send X-LTM-User", "user")
        if not self.server.model.has_memory:
            raise ApiError(404, "this server was started without a memory (--memory off)", "memory_not_found")
        self.server.quotas.admit(str(key.id), caller.turn)
        await self._app({**scope, WHO: (key, caller), "path": "/", "raw_path": b"/", "root_path": ""}, receive, send)


def check_origin(request: Request, is_local: bool) -> None:
    """Raise ApiError 403 for a page of another site that sends a visitor's browser here, also by a name that it made
    point to this machine (DNS rebinding)."""
    host = request.headers.get("host", "")
    if is_local and not is_loopback(urlsplit(f"//{host}").hostname or ""):
        raise ApiError(403, "this server answers to localhost and 127.0.0.1 alone; ask it by such a name", "wrong_host")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise ApiError(403, "a page of another site asks; this server answers its own alone", "wrong_origin")


async def _know_who(ctx: Any, call_next: Callable[[Any], Any]) -> Any:
    """Around each message: who sent its request."""
    _asking.set(ctx.request.scope[WHO])
    return await call_next(ctx)


def _reach(server: Server) -> Reach:
    async def reach(call: Callable[[MemoryItems], Result], scope: str, *, grows: bool = False) -> Result:
        key, caller = _asking.get()
        if not key.may(scope):
            raise ApiError(403, f"this key has no scope {scope}", "insufficient_scope")
        if grows:
            await run_in_threadpool(server.quotas.check_room, server.users.directory_of(caller))
        return await in_memory(server, caller, lambda memory: call(MemoryItems(memory)))

    return reach
