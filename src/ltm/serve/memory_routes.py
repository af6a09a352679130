"""Routes under /v1/memory: what is remembered of a user, to be searched, read, corrected and deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ltm.serve.access import json_body, key_of
from ltm.serve.chat_request import header_names, invalid_field
from ltm.serve.errors import ApiError, invalid
from ltm.serve.identity import Caller, resolve, with_namespace
from ltm.serve.in_memory import in_memory
from ltm.serve.memory_items import ItemPage, MemoryItem, MemoryItems, Receipt

if TYPE_CHECKING:
    from ltm.serve.app import Server

Result = TypeVar("Result")
READ, WRITE = "memory:read", "memory:write"


class Fields(BaseModel):
    """Of a body, or of a query; whose memory it is, `identity` reads."""

    model_config = ConfigDict(extra="allow", frozen=True)

    memory: Any = None
    user: Any = None
    namespace: Any = None
    safety_identifier: Any = None
    metadata: Any = None


class AddedItem(Fields):
    text: str


class ItemSearch(Fields):
    query: str
    k: int = 8
    since: str | None = None
    until: str | None = None


class ListedItems(Fields):
    after: str | None = None
    limit: int = 20
    order: str = "asc"


class EventsSince(Fields):
    after: int = 0
    since: str | None = None
    limit: int = 100


class ItemCorrection(Fields):
    text: str
    reason: str | None = None
    content_sha256: str | None = None


class Erasure(Fields):
    all: bool
    confirm: str


class MemoryRequest:
    """A request that was let in: whose memory, and what its fields say."""

    def __init__(self, server: Server, caller: Caller, fields: Any, ignored: list[str]):
        self.server, self.caller, self.fields, self.ignored = server, caller, fields, ignored

    async def run(self, call: Callable[[MemoryItems], Result]) -> Result:
        """Do it in the user's turn."""
        return await in_memory(self.server, self.caller, lambda memory: call(MemoryItems(memory)))

    def answer(self, body: Mapping[str, Any]) -> Response:
        headers = {"x-ltm-ignored": ", ".join(self.ignored)} if self.ignored else {}
        return JSONResponse(body, headers=headers)


async def asked_of(
    request: Request, scope: str, kind: type[Fields] = Fields, *, has_body: bool = False
) -> MemoryRequest:
    """Raises ApiError: 401, 403, 400 for fields that cannot be, 404 where there is no memory."""
    server: Server = request.app.state.server
    key = key_of(request, server.keys, scope)
    data = await json_body(request, server.settings.max_body) if has_body else dict(request.query_params)
    if not isinstance(data, dict):
        raise invalid("the body is no JSON object; send one")
    try:
        fields = kind.model_validate(data)
    except ValidationError as error:
        raise invalid_field(error) from None
    caller = resolve(key.principal, request.headers.items(), with_namespace(data))
    if caller.user is None:
        raise invalid("this key speaks for many and the request names no user; send X-LTM-User", "user")
    if not server.model.has_memory:
        raise ApiError(404, "this server was started without a memory (--memory off)", "memory_not_found")
    return MemoryRequest(server, caller, fields, header_names(fields.model_extra or {}))


async def add_item(request: Request) -> Response:
    """POST /v1/memory/items"""
    asked = await asked_of(request, WRITE, AddedItem, has_body=True)
    return asked.answer(_item(await asked.run(lambda items: items.add(asked.fields.text))))


async def list_items(request: Request) -> Response:
    """GET /v1/memory/items"""
    asked = await asked_of(request, READ, ListedItems)
    own = asked.fields
    page: ItemPage = await asked.run(lambda items: items.page(own.after, own.limit, own.order))
    return asked.answer(_list(list(map(_item, page.items)), page.has_more))


async def search_items(request: Request) -> Response:
    """POST /v1/memory/search"""
    asked = await asked_of(request, READ, ItemSearch, has_body=True)
    own = asked.fields
    found = await asked.run(lambda items: items.search(own.query, own.k, own.since, own.until))
    return asked.answer(_list(list(map(_item, found))))


async def read_item(request: Request) -> Response:
    """GET /v1/memory/items/{id}"""
    asked, item = await asked_of(request, READ), request.path_params["id"]
    read = await asked.run(lambda items: items.one(item))
    return asked.answer({**_item(read.item), "turns": list(map(_item, read.turns))})


async def correct_item(request: Request) -> Response:
    """PATCH /v1/memory/items/{id}"""
    asked, item = await asked_of(request, WRITE, ItemCorrection, has_body=True), request.path_params["id"]
    own = asked.fields
    version = await asked.run(lambda items: items.correct(item, own.text, own.reason, own.content_sha256))
    return asked.answer(_item(version))


async def delete_item(request: Request) -> Response:
    """DELETE /v1/memory/items/{id}"""
    asked, item = await asked_of(request, WRITE), request.path_params["id"]
    return asked.answer(receipt_body(await asked.run(lambda items: items.delete(item))))


async def item_history(request: Request) -> Response:
    """GET /v1/memory/items/{id}/history"""
    asked, item = await asked_of(request, READ), request.path_params["id"]
    versions = await asked.run(lambda items: items.history(item))
    return asked.answer(_list([{"object": "memory.version", **asdict(version)} for version in versions]))


async def redact_version(request: Request) -> Response:
    """POST /v1/memory/items/{id}/history/{version}/redact"""
    asked, names = await asked_of(request, WRITE), request.path_params
    redacted = await asked.run(lambda items: items.redact(names["id"], names["version"]))
    return asked.answer({"object": "memory.version", **asdict(redacted)})


async def list_events(request: Request) -> Response:
    """GET /v1/memory/events"""
    asked = await asked_of(request, READ, EventsSince)
    own = asked.fields
    found = await asked.run(lambda items: items.events(own.after, own.since, own.limit))
    data = [{"object": "memory.event", "id": event.number, **asdict(event)} for event in found]
    for event in data:
        del event["number"]
    return asked.answer(_list(data, len(data) == own.limit))


async def delete_all(request: Request) -> Response:
    """DELETE /v1/memory"""
    asked = await asked_of(request, WRITE, Erasure, has_body=True)
    if not asked.fields.all:
        raise invalid('all is not true; to erase a memory send {"all": true, "confirm": "USER"}', "all")
    if asked.fields.confirm != asked.caller.user:
        raise invalid("confirm is not the name of the user whose memory this is; nothing was deleted", "confirm")
    return asked.answer(receipt_body(await asked.run(lambda items: items.delete_all())))


def _item(item: MemoryItem) -> dict[str, Any]:
    return {"object": "memory.item", **asdict(item)}


def _list(data: list[dict[str, Any]], has_more: bool = False) -> dict[str, Any]:
    ids = [one["id"] for one in data] or [None]
    return {"object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more}


def receipt_body(receipt: Receipt) -> dict[str, Any]:
    return {"object": "memory.deleted", "deleted": True, **asdict(receipt)}


MEMORY_ROUTES = [
    Route("/v1/memory", delete_all, methods=["DELETE"]),
    Route("/v1/memory/search", search_items, methods=["POST"]),
    Route("/v1/memory/items", add_item, methods=["POST"]),
    Route("/v1/memory/items", list_items, methods=["GET"]),
    Route("/v1/memory/items/{id}", read_item, methods=["GET"]),
    Route("/v1/memory/items/{id}", correct_item, methods=["PATCH"]),
    Route("/v1/memory/items/{id}", delete_item, methods=["DELETE"]),
    Route("/v1/memory/items/{id}/history", item_history, methods=["GET"]),
    Route("/v1/memory/items/{id}/history/{version}/redact", redact_version, methods=["POST"]),
    Route("/v1/memory/events", list_events, methods=["GET"]),
]
