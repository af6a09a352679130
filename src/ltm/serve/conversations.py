"""/v1/conversations: conversations that the server keeps.

Each is one episode of its user's memory: what is deleted of one is deleted from the memory, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ltm.serve.access import json_body, key_of
from ltm.serve.errors import ApiError, invalid
from ltm.serve.identity import Caller, resolve
from ltm.serve.kept_turns import forget_item, forget_session, kept_items, note
from ltm.serve.response_request import Json, messages_of, parse_items, parse_metadata
from ltm.serve.response_store import ResponseStore
from ltm.serve.responses import asking, page_of, stored
from ltm.serve.turn_log import said

if TYPE_CHECKING:
    from ltm.serve.app import Server

MOST_ITEMS = 20
"""That are put into a conversation in one request."""


async def _asked(request: Request) -> tuple[Server, Caller, Json]:
    """Server, caller and body of a request that writes. Raises ApiError."""
    server: Server = request.app.state.server
    key = key_of(request, server.keys, "memory:write")
    data = await json_body(request, server.settings.max_body)
    if not isinstance(data, dict):
        raise invalid("the body is no JSON object; send one")
    return server, resolve(key.principal, request.headers.items(), data), data


async def create(request: Request) -> Response:
    """POST /v1/conversations."""
    server, caller, data = await _asked(request)
    if caller.user is None:
        raise invalid("nothing is stored for nobody; name a user")
    metadata, items = parse_metadata(data.get("metadata")), _items(data) if data.get("items") else []
    name = await stored(server, caller, lambda store: store.add_conversation(metadata), make=True)
    if items:
        await _add(server, caller, name, items, data)
    return JSONResponse(await stored(server, caller, lambda store: store.conversation(name)))


async def retrieve(request: Request) -> Response:
    """GET /v1/conversations/{id}."""
    caller, name = asking(request, "memory:read"), request.path_params["id"]
    return JSONResponse(await stored(request.app.state.server, caller, lambda store: store.conversation(name)))


async def update(request: Request) -> Response:
    """POST /v1/conversations/{id}: other metadata."""
    server, caller, data = await _asked(request)
    name, metadata = request.path_params["id"], parse_metadata(data.get("metadata"))
    return JSONResponse(await stored(server, caller, lambda store: store.update_conversation(name, metadata)))


async def delete(request: Request) -> Response:
    """DELETE /v1/conversations/{id}: with its items, its responses, and what the memory learnt from it."""
    server: Server = request.app.state.server
    caller, name = asking(request, "memory:write"), request.path_params["id"]
    await stored(server, caller, lambda store: store.conversation(name))
    await forget_session(server, caller, name)  # first: what a kill leaves half done can be asked for again
    await stored(server, caller, lambda store: store.delete_conversation(name))
    await forget_session(server, caller, name)  # what was said while the first went on
    return JSONResponse({"id": name, "object": "conversation.deleted", "deleted": True})


async def add_items(request: Request) -> Response:
    """POST /v1/conversations/{id}/items."""
    server, caller, data = await _asked(request)
    items = _items(data)
    await _add(server, caller, request.path_params["id"], items, data)
    ids = {"first_id": items[0]["id"], "last_id": items[-1]["id"]}
    return JSONResponse({"object": "list", "data": items, **ids, "has_more": False})


async def items_of(request: Request) -> Response:
    """GET /v1/conversations/{id}/items."""
    caller, name, page = asking(request, "memory:read"), request.path_params["id"], page_of(request)

    def find(store: ResponseStore) -> Json:
        store.conversation(name)
        return store.page("conversation", name, **page)

    return JSONResponse(await stored(request.app.state.server, caller, find))


async def item(request: Request) -> Response:
    """GET /v1/conversations/{id}/items/{item}."""
    caller, (name, own) = asking(request, "memory:read"), _names(request)
    found = await stored(request.app.state.server, caller, lambda store: store.conversation_item(name, own))
    return JSONResponse(found.item)


async def delete_item(request: Request) -> Response:
    """DELETE /v1/conversations/{id}/items/{item}: also from its response and from the memory."""
    server: Server = request.app.state.server
    caller, (name, own) = asking(request, "memory:write"), _names(request)
    found = await stored(server, caller, lambda store: store.conversation_item(name, own))
    await forget_item(server, caller, found)
    await stored(server, caller, lambda store: store.delete_item(name, own))
    return JSONResponse(await stored(server, caller, lambda store: store.conversation(name)))


async def _add(server: Server, caller: Caller, name: str, items: list[Json], data: Json) -> None:
    """Put items at the end of a conversation; what was said in them is remembered like any turn."""
    history = await stored(server, caller, lambda store: store.history_of_conversation(name))
    tail, after = history.tail
    old = messages_of([one.item for one in tail])
    kept = kept_items(old, items, name, after)
    memory = data.get("memory")
    if not isinstance(memory, dict) or memory.get("write") is not False:
        await note(server, caller, name, said([*old, *messages_of(items)]), after)
    try:
        await stored(server, caller, lambda store: store.add_items(name, kept))
    except ApiError as error:
        if error.status == 404:  # it was deleted meanwhile
            await forget_session(server, caller, name)
        raise


def _items(data: Json) -> list[Json]:
    given = data.get("items")
    if isinstance(given, list) and len(given) > MOST_ITEMS:
        raise invalid(f"{len(given)} items; send {MOST_ITEMS} at a time", "items")
    items = parse_items(given, "items")
    if not items:
        raise invalid("items holds nothing that is kept; give a message", "items")
    return items


def _names(request: Request) -> tuple[Any, Any]:
    return request.path_params["id"], request.path_params["item"]


PLACE = "/v1/conversations/{id}"
CONVERSATION_ROUTES = [
    Route("/v1/conversations", create, methods=["POST"]),
    Route(PLACE, retrieve, methods=["GET"]),
    Route(PLACE, update, methods=["POST"]),
    Route(PLACE, delete, methods=["DELETE"]),
    Route(f"{PLACE}/items", items_of, methods=["GET"]),
    Route(f"{PLACE}/items", add_items, methods=["POST"]),
    Route(f"{PLACE}/items/{{item}}", item, methods=["GET"]),
    Route(f"{PLACE}/items/{{item}}", delete_item, methods=["DELETE"]),
]
