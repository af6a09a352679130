"""Who may come in, and how much they may bring: keys, scopes, bodies."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ltm.serve.errors import ApiError, invalid
from ltm.serve.keys import ApiKey, KeyStore
from ltm.serve.sessions import session_key

BODY_SECONDS = 60.0
"""A body that takes longer is given up: nobody holds a connection by sending slowly."""


def key_of(request: Request, keys: KeyStore, scope: str | None = None) -> ApiKey:
    """The key that a request brings, or that its session stands for. Raises ApiError: 401 for none that counts, 403
    without the scope, or for a session's write without its token."""
    if "authorization" in request.headers:
        kind, _, text = request.headers["authorization"].partition(" ")
        key = keys.find(text.strip()) if kind.lower() == "bearer" else None
    else:
        key = session_key(request)
    if key is None:
        headers = {"www-authenticate": "Bearer"}
        raise ApiError(
            401, "no key, or none that counts; send Authorization: Bearer ltm_...", "invalid_api_key", None, headers
        )
    if scope is not None and not key.may(scope):
        raise ApiError(403, f"this key has no scope {scope}; make one that has: ltm keys create", "insufficient_scope")
    return key


async def json_body(request: Request, most: int) -> Any:
    """The JSON of a body of so many bytes at most. Raises ApiError: 400, 408, 413."""
    data = await read_body(request, most)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        why = "is nested too deeply" if isinstance(error, RecursionError) else "is no JSON"
        raise invalid(f"the body {why}; send one JSON object", code="invalid_json") from None


async def read_body(request: Request, most: int) -> bytes:
    """A body of so many bytes at most. Raises ApiError: 400, 408, 413."""
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) > most:
        raise _too_large(most)
    try:
        return await asyncio.wait_for(_read(request, most), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body took more than {BODY_SECONDS:.0f} seconds", "timeout") from None
    except ClientDisconnect:
        raise invalid("the client went away") from None


async def _read(request: Request, most: int) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > most:
            raise _too_large(most)
    return bytes(data)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most:,} bytes; send less, or raise --max-body", "body_too_large")
