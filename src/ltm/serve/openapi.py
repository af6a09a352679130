"""GET /openapi.json and /docs: what can be asked, made from the routes themselves and the bodies that they read.

The page is plain HTML, which loads nothing from anywhere and runs nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

import ltm
from ltm.serve.admin_routes import NewKey
from ltm.serve.answer_format import Json
from ltm.serve.chat_request import ChatBody
from ltm.serve.embeddings import EmbeddingBody
from ltm.serve.memory_routes import AddedItem, Erasure, ItemCorrection, ItemSearch, ListedItems
from ltm.serve.memory_trace import TracedAnswer
from ltm.serve.page_routes import HEADERS
from ltm.serve.response_request import ResponseBody

BODIES: Mapping[tuple[str, str], type[BaseModel]] = {
    ("POST", "/v1/chat/completions"): ChatBody,
    ("POST", "/v1/embeddings"): EmbeddingBody,
    ("POST", "/v1/responses"): ResponseBody,
    ("POST", "/v1/responses/input_tokens"): ResponseBody,
    ("POST", "/v1/memory/items"): AddedItem,
    ("POST", "/v1/memory/search"): ItemSearch,
    ("PATCH", "/v1/memory/items/{id}"): ItemCorrection,
    ("DELETE", "/v1/memory"): Erasure,
    ("POST", "/v1/memory/trace"): TracedAnswer,
    ("POST", "/v1/admin/keys"): NewKey,
}
"""What a request's JSON holds, where one class says it; other bodies are any object."""
LISTS = ("/v1/memory/items", "/v1/conversations/{id}/items", "/v1/responses/{id}/input_items")
OPEN = ("/health", "/ready", "/version", "/openapi.json", "/docs", "/session")
"""Without a key."""
UNTOLD = ("/", "/page.css", "/page.js", "/icon.svg")
_CONVERTER = re.compile(r":\w+}")
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def openapi(routes: list[BaseRoute]) -> Json:
    """The description of an application, OpenAPI 3.1.

    >>> openapi([])["openapi"]
    '3.1.0'
    """
    paths: dict[str, Json] = {}
    schemas: Json = {"Error": _ERROR}
    for method, path, endpoint in _told(routes):
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ltm",
            "version": ltm.__version__,
            "description": "A memory server that speaks OpenAI's API.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
    }


def _told(routes: list[BaseRoute]) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """Method, path and function of each route that is for programs."""
    for route in routes:
        if not isinstance(route, Route) or route.path in UNTOLD or not inspect.isfunction(route.endpoint):
            continue
        for method in sorted((route.methods or set()) - {"HEAD"}):
            yield method, _CONVERTER.sub("}", route.path), route.endpoint


def _operation(method: str, path: str, endpoint: Callable[..., Any], schemas: Json) -> Json:
    names = [*re.findall(r"[a-z_]+", path), method.lower()]
    described: Json = {"operationId": "_".join(names), "responses": _responses(path)}
    if endpoint.__doc__:
        described["summary"] = " ".join(endpoint.__doc__.split())
    parameters = [_parameter("path", name, {"type": "string"}) for name in re.findall(r"{(\w+)}", path)]
    if method == "GET" and path in LISTS:
        fields = ListedItems.model_json_schema()["properties"]
        parameters += [_parameter("query", name, fields[name]) for name in ("after", "limit", "order")]
    if parameters:
        described["parameters"] = parameters
    if path in OPEN:
        described["security"] = []
    body = BODIES.get((method, path))
    if body is not None or method in ("POST", "PATCH", "PUT"):
        schema = {"type": "object"} if body is None else _schema(body, schemas)
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _parameter(place: str, name: str, schema: Json) -> Json:
    return {"in": place, "name": name, "required": place == "path", "schema": schema}


def _responses(path: str) -> Json:
    streams = path in ("/v1/chat/completions", "/v1/responses")
    kinds = ["application/json", *(["text/event-stream"] if streams else [])]
    failed = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "It was done.", "content": {kind: {} for kind in kinds}},
        "default": {"description": "Why it was not.", "content": failed},
    }


def _schema(body: type[BaseModel], schemas: Json) -> Json:
    """A reference to the schema of a body, which is added with those that it refers to."""
    made = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= made.pop("$defs", {})
    schemas[body.__name__] = made
    return {"$ref": f"#/components/schemas/{body.__name__}"}


async def description(request: Request) -> Response:
    """What can be asked of this server, as OpenAPI 3.1."""
    return JSONResponse(openapi(request.app.routes))


async def docs_page(request: Request) -> Response:
    """The same as a page."""
    return HTMLResponse(_html(openapi(request.app.routes)), headers=HEADERS)


def _html(told: Json) -> str:
    rows = [
        f"<tr><td>{method.upper()}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(one.get('summary', ''))}{_fields(one, told)}</td></tr>"
        for path, methods in told["paths"].items()
        for method, one in methods.items()
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>ltm {escape(told['info']['version'])}: routes</title><link rel='stylesheet' href='page.css'>"
        "<main><h1>Routes</h1><p>For programs: <a href='openapi.json'>openapi.json</a>. Send "
        "<code>Authorization: Bearer ltm_...</code></p><table><thead><tr><th>Method<th>Path<th>What</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></main></html>"
    )


def _fields(operation: Json, told: Json) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    name = content.get("$ref", "").rpartition("/")[2]
    fields = told["components"]["schemas"].get(name, {}).get("properties", {})
    return f"<br><small>{', '.join(f'<code>{escape(field)}</code>' for field in fields)}</small>" if fields else ""


OPENAPI_ROUTES = [Route("/openapi.json", description), Route("/docs", docs_page)]
