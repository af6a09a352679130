"""Routes under /v1/admin, for keys with the scope admin: keys made, listed and revoked, users with their sizes, and
the server's settings and state.

Nothing here tells what anybody said. Whoever has the scope can make a key of any user, as `ltm keys create` can.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import ltm
from ltm.serve.access import json_body, key_of
from ltm.serve.chat_request import Lenient, header_names, invalid_field
from ltm.serve.data_directory import DataDirectory
from ltm.serve.errors import ApiError, invalid
from ltm.serve.keys import USUAL, ApiKey
from ltm.serve.responses import page_of
from ltm.serve.settings import time_span

if TYPE_CHECKING:
    from ltm.serve.app import Server

SCOPE = "admin"


class NewKey(Lenient):
    name: str
    user: str | None = None
    gateway: bool = False
    scopes: list[str] | None = None
    expires: str | None = None
    tenant: str = "default"


def _admitted(request: Request) -> Server:
    """The server, for who may. Raises ApiError: 401, 403."""
    server: Server = request.app.state.server
    key_of(request, server.keys, SCOPE)
    return server


async def show_server(request: Request) -> Response:
    """GET /v1/admin/server: its settings, without the key among them, and what it holds now."""
    server = _admitted(request)
    return JSONResponse(
        {
            "object": "admin.server",
            "version": ltm.__version__,
            "started": server.started,
            "settings": server.settings.model_dump(mode="json", exclude={"api_key"}),
            "waiting": server.engine.depth,
            "open_memories": server.users.num_open,
            "memory_bytes": server.users.nbytes,
            "disk_free_bytes": shutil.disk_usage(server.settings.directory).free,
        }
    )


async def list_keys(request: Request) -> Response:
    """GET /v1/admin/keys: all of them, without their texts."""
    keys = await run_in_threadpool(_admitted(request).keys.all)
    return JSONResponse({"object": "list", "data": list(map(_key, keys)), "has_more": False})


async def create_key(request: Request) -> Response:
    """POST /v1/admin/keys: the only answer that has the key's text, as `key`."""
    server = _admitted(request)
    data = await json_body(request, server.settings.max_body)
    try:
        asked = NewKey.model_validate(data)
    except ValidationError as error:
        raise invalid_field(error) from None
    if (asked.user is None) != asked.gateway:
        raise invalid("a key is one user's or a gateway's: give user, or gateway true", "user")
    try:
        span = time_span(asked.expires or None)
    except ValueError as error:
        raise invalid(f"expires: {error}", "expires") from None
    if not asked.name.strip():
        raise invalid("name is empty; give one", "name")
    scopes = USUAL if asked.scopes is None else asked.scopes
    key, text = await run_in_threadpool(server.keys.create, asked.name, asked.user, scopes, span, asked.tenant)
    ignored = header_names(asked.model_extra or {})
    return JSONResponse({**_key(key), "key": text}, headers={"x-ltm-ignored": ", ".join(ignored)} if ignored else {})


async def revoke_key(request: Request) -> Response:
    """DELETE /v1/admin/keys/{id}: it is refused from now on, and so are its sessions."""
    server, number = _admitted(request), request.path_params["id"]
    gone = next((key for key in await run_in_threadpool(server.keys.all) if key.id == number), None)
    if gone is None:
        raise ApiError(404, f"there is no key {number}", "key_not_found", "id")
    await run_in_threadpool(server.keys.revoke_id, number)
    return JSONResponse({**_key(gone), "object": "admin.key.deleted", "deleted": True})


async def list_users(request: Request) -> Response:
    """GET /v1/admin/users: who has a memory, the newest first, with its items and bytes on the disk."""
    server, page = _admitted(request), page_of(request)

    def find() -> list[dict[str, Any]]:
        data = DataDirectory(server.settings.directory, server.keys)
        stored = data.users(after=page["after"], limit=page["limit"] + 1, newest_first=page["order"] == "desc")
        return [{"object": "admin.user", **asdict(one)} for one in stored]

    found = await run_in_threadpool(find)
    data = found[: page["limit"]]
    ids = [one["id"] for one in data] or [None]
    has_more = len(found) > len(data)
    return JSONResponse({"object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more})


def _key(key: ApiKey) -> dict[str, Any]:
    return {"object": "admin.key", **asdict(key)}


ADMIN_ROUTES = [
    Route("/v1/admin/server", show_server, methods=["GET"]),
    Route("/v1/admin/keys", list_keys, methods=["GET"]),
    Route("/v1/admin/keys", create_key, methods=["POST"]),
    Route("/v1/admin/keys/{id:int}", revoke_key, methods=["DELETE"]),
    Route("/v1/admin/users", list_users, methods=["GET"]),
]
