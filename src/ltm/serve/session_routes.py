"""/session: the page logs in with a key or a link's token, learns who it is, and logs out."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import ltm
from ltm.serve.access import json_body
from ltm.serve.errors import ApiError, invalid
from ltm.serve.keys import ApiKey
from ltm.serve.sessions import SESSION_SPAN, BrowserSession, check_token, session_of

if TYPE_CHECKING:
    from ltm.serve.app import Server

MOST_BODY = 4000
_PATH = re.compile(r"/(?:[A-Za-z0-9._~-]+/)*")


async def log_in(request: Request) -> Response:
    """POST /session: {"key"} or {"token"}, and the path that the page lies at.

    JSON alone: a form of another site cannot send it, and so logs nobody in as somebody else.
    """
    server: Server = request.app.state.server
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise invalid("the body's content-type is not application/json")
    data = await json_body(request, MOST_BODY)
    if not isinstance(data, dict):
        raise invalid("the body is no JSON object; send one with key")
    session = await run_in_threadpool(server.sessions.begin, _key(server, data))
    response = JSONResponse(_told(server, session))
    _set_cookie(request, response, session.text, _path(data), SESSION_SPAN)
    return response


def _key(server: Server, data: dict[str, Any]) -> ApiKey:
    """Raises ApiError: 401 for none that counts, 403 for a gateway's."""
    text, token = data.get("key"), data.get("token")
    if isinstance(token, str):
        key, what = server.sessions.redeem(token), "this link was used, or is too old; log in with a key"
    elif isinstance(text, str):
        key, what = server.keys.find(text.strip()), "this is no key that counts; make one: ltm keys create"
    else:
        raise invalid("neither key nor token is a text; send one", "key")
    if key is None:
        raise ApiError(401, what, "invalid_api_key")
    if key.user is None:
        raise ApiError(403, "a gateway's key speaks for many; log in with a key of one user", "memory_forbidden", "key")
    return key


async def who(request: Request) -> Response:
    """GET /session: whose it is and what there is for them; `user` is null for no session, which is no error."""
    session = await run_in_threadpool(session_of, request)
    if session is None:
        return JSONResponse({"object": "session", "user": None})
    return JSONResponse(_told(request.app.state.server, session))


async def log_out(request: Request) -> Response:
    """DELETE /session"""
    server: Server = request.app.state.server
    session = await run_in_threadpool(session_of, request)
    response = JSONResponse({"object": "session", "user": None})
    if session is not None:
        check_token(request, session)
        await run_in_threadpool(server.sessions.end, session.text)
        _set_cookie(request, response, "", _path(dict(request.query_params)), timedelta(0))
    return response


def _told(server: Server, session: BrowserSession) -> dict[str, Any]:
    """routes: of the server, so that the page shows what it has."""
    key, settings = session.key, server.settings
    retention = None if settings.retention is None else settings.retention.total_seconds() / 3600
    return {
        "object": "session",
        "user": key.user,
        "scopes": key.scopes,
        "key": {"id": key.id, "name": key.name},
        "expires": session.expires,
        "token": session.token,
        "model": server.model.name,
        "memory": server.model.memory,
        "remembers_answers": settings.remember_answers,
        "retention_hours": retention,
        "version": ltm.__version__,
        "routes": sorted({route.path for route in server.app.routes if isinstance(route, Route)}),
    }


def _path(data: dict[str, Any]) -> str:
    """The page's path as its browser sees it: a proxy may serve it below one that this server never hears of."""
    path = data.get("path")
    return path if isinstance(path, str) and len(path) < 500 and _PATH.fullmatch(path) else "/"


def _set_cookie(request: Request, response: Response, text: str, path: str, span: timedelta) -> None:
    response.set_cookie(
        request.app.state.server.sessions.cookie,
        text,
        max_age=int(span.total_seconds()),
        path=path,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


SESSION_ROUTES = [
    Route("/session", log_in, methods=["POST"]),
    Route("/session", who, methods=["GET"]),
    Route("/session", log_out, methods=["DELETE"]),
]
