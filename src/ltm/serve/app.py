"""The application: its parts, its routes, and what frames every request."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import ltm
from ltm.errors import LtmError
from ltm.serve.access import key_of
from ltm.serve.admin_routes import ADMIN_ROUTES
from ltm.serve.archive_routes import ARCHIVE_ROUTES
from ltm.serve.chat import chat_completions
from ltm.serve.conversations import CONVERSATION_ROUTES
from ltm.serve.document_routes import DOCUMENT_ROUTES, Readers
from ltm.serve.embeddings import embeddings
from ltm.serve.engine import ChatReply
from ltm.serve.errors import ApiError, api_error
from ltm.serve.gate import Gate
from ltm.serve.identity import Caller
from ltm.serve.keys import KeyStore
from ltm.serve.mcp_files import mcp_files
from ltm.serve.mcp_graph import mcp_graph
from ltm.serve.mcp_http import McpEndpoint
from ltm.serve.mcp_server import mcp_server
from ltm.serve.memory_routes import MEMORY_ROUTES
from ltm.serve.memory_trace import TRACE_ROUTES
from ltm.serve.metrics import ServeMetrics
from ltm.serve.openapi import OPENAPI_ROUTES
from ltm.serve.page_routes import PAGE_ROUTES
from ltm.serve.quotas import Allowance, Quotas
from ltm.serve.responses import RESPONSE_ROUTES
from ltm.serve.serial_engine import SerialEngine
from ltm.serve.served_model import ServedModel
from ltm.serve.session_routes import SESSION_ROUTES
from ltm.serve.sessions import Sessions
from ltm.serve.settings import ServeSettings
from ltm.serve.users import Users

MCP_PATHS = {"/mcp": mcp_server, "/mcp/memory": mcp_graph, "/mcp/files": mcp_files}
"""Our tools, and those of others that clients know."""
LEAST_DISK = 100 * 10**6
"""Bytes that must be free for a server to say that it is ready."""


class Server:
    """What all requests share: settings, keys, model, users, engine and metrics.

    >>> Server(settings, keys, model).app  # doctest: +SKIP
    """

    def __init__(self, settings: ServeSettings, keys: KeyStore, model: ServedModel):
        self.settings, self.keys, self.model, self.metrics = settings, keys, model, ServeMetrics()
        self.users = Users(
            settings.directory,
            model,
            keys,
            settings.memory_budget,
            settings.retention,
            self._tell_failure,
            settings.roles,
        )
        self.sessions, self.quotas = Sessions(keys), Quotas(settings)
        self.engine = SerialEngine(model, self.users, settings.queue_size, settings.recall)
        self.readers = Readers(self)
        self.started = int(time.time())
        self.fingerprint = f"ltm-{ltm.__version__}-{model.place}"
        self.app = make_app(self)

    @property
    def models(self) -> list[str]:
        """Names by which the model is asked for, with its memory and without."""
        own = [f"{self.model.name}:{self.model.memory}"] if self.model.has_memory else []
        return [self.model.name, *own, f"{self.model.name}:off"]

    def has_memory(self, name: str | None) -> bool:
        """Whether the model that a request names has a memory. Raises ApiError 404 for one that is not served."""
        if name is not None and name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(404, f"there is no model {name[:80]!r}; there are: {known}", "model_not_found", "model")
        return self.model.has_memory and not (name or "").endswith(":off")

    def count(self, caller: Caller, reply: ChatReply, allowance: Allowance | None) -> None:
        """Note a reply in the metrics, and in what its key and user may ask for."""
        made = sum(choice.num_tokens for choice in reply.choices)
        for kind, tokens in (("prompt", reply.prompt_tokens), ("cached", reply.cached_tokens), ("output", made)):
            self.metrics.tokens.labels(kind).inc(tokens)
        self.metrics.turns.inc(len(reply.written))
        if allowance is not None:
            allowance.pay(reply.prompt_tokens + made)
        if caller.user is not None:
            self.quotas.note_remembered(self.users.directory_of(caller).name, reply.remembered)

    def close(self) -> None:
        """End what runs, and close all memories; all that was said is on the disk."""
        self.engine.close()
        self.users.close()

    def _tell_failure(self, error: Exception) -> None:
        self.metrics.write_failures.labels(type(error).__name__).inc()


def make_app(server: Server) -> Starlette:
    """The routes of a server; when it ends, the server is closed."""

    mcp = {path: McpEndpoint(server, make) for path, make in MCP_PATHS.items()}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for endpoint in mcp.values():
                await stack.enter_async_context(endpoint.running())
            yield
        await server.readers.close()
        await run_in_threadpool(server.close)

    routes = [
        Route("/health", health),
        Route("/ready", ready),
        Route("/version", version),
        Route("/metrics", metrics),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model_named),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        *RESPONSE_ROUTES,
        *CONVERSATION_ROUTES,
        *MEMORY_ROUTES,
        *TRACE_ROUTES,
        *SESSION_ROUTES,
        *ADMIN_ROUTES,
        *PAGE_ROUTES,
        *OPENAPI_ROUTES,
        *ARCHIVE_ROUTES,
        *DOCUMENT_ROUTES,
        *(Route(path, endpoint) for path, endpoint in mcp.items()),
    ]
    handlers = {ApiError: _explain, HTTPException: _explain, LtmError: _explain}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.add_middleware(Gate, server=server)
    app.add_middleware(Frame, server=server, paths={route.endpoint: route.path for route in routes})
    app.state.server = server
    return app


class Frame:
    """Around every request: an id that its response names, its count and time, and a body for what went wrong."""

    def __init__(self, app: ASGIApp, server: Server, paths: dict[Any, str]):
        self.app, self.server, self.paths = app, server, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, code = time.perf_counter(), 0
        request_id = f"req_{uuid.uuid4().hex}"

        async def framed(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self.app(scope, receive, framed)
        except Exception as error:
            if code:
                raise
            await api_error(error).response()(scope, receive, framed)
        finally:
            self._count(self.paths.get(scope.get("endpoint"), "other"), code, time.perf_counter() - started)

    def _count(self, route: str, code: int, seconds: float) -> None:
        self.server.metrics.requests.labels(route, str(code)).inc()
        self.server.metrics.seconds.labels(route).observe(seconds)
        if code == 401:
            self.server.metrics.auth_failures.inc()


async def _explain(_: Request, error: Exception) -> Response:
    return api_error(error).response()


async def health(_: Request) -> Response:
    """The process is alive."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """Whether requests are worth sending: the store can be written, the queue has room, the disk has some."""
    server: Server = request.app.state.server
    free = shutil.disk_usage(server.settings.directory).free
    checks = {
        "store": await run_in_threadpool(_can_write, server),
        "queue": server.engine.depth < server.settings.queue_size,
        "disk": free >= LEAST_DISK,
    }
    is_ready = all(checks.values())
    return JSONResponse({"status": "ready" if is_ready else "not ready", "checks": checks}, 200 if is_ready else 503)


def _can_write(server: Server) -> bool:
    try:
        server.keys.database.run("INSERT OR REPLACE INTO facts VALUES ('looked', 1)")
    except LtmError:
        return False
    return True


async def version(_: Request) -> Response:
    return JSONResponse({"version": ltm.__version__})


async def metrics(request: Request) -> Response:
    """For Prometheus; needs the scope admin."""
    server: Server = request.app.state.server
    key_of(request, server.keys, "admin")
    own = server.metrics
    own.queue_depth.set(server.engine.depth)
    own.open_memories.set(server.users.num_open)
    own.memory_bytes.set(server.users.nbytes)
    own.evictions.set(server.users.num_closed)
    return Response(own.text(), media_type="text/plain; version=0.0.4")


async def models(request: Request) -> Response:
    server: Server = request.app.state.server
    key_of(request, server.keys)
    return JSONResponse({"object": "list", "data": [_model(server, name) for name in server.models]})


async def model_named(request: Request) -> Response:
    server: Server = request.app.state.server
    key_of(request, server.keys)
    name = request.path_params["name"]
    server.has_memory(name)
    return JSONResponse(_model(server, name))


def _model(server: Server, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": server.started, "owned_by": "ltm"}
