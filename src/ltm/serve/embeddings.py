"""POST /v1/embeddings: vectors of texts. Nothing of them is kept."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from torch import Tensor, nn

from ltm.serve.access import json_body, key_of
from ltm.serve.chat_request import Lenient, ignored_names, invalid_field
from ltm.serve.embedder import PooledStates, num_read
from ltm.serve.errors import invalid
from ltm.serve.identity import resolve
from ltm.serve.messages import well_formed

if TYPE_CHECKING:
    from ltm.serve.app import Server

MOST_INPUTS = 2048
MOST_TOKENS = 300_000
"""Of all inputs of a request, as at OpenAI."""


class EmbeddingBody(Lenient):
    """What of a request has an effect."""

    input: str | list[str] | list[int] | list[list[int]] = Field(union_mode="left_to_right")
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    user: Any = None
    safety_identifier: Any = None
    metadata: Any = None


async def embeddings(request: Request) -> Response:
    """The route. Vectors have length 1; `dimensions` takes the first ones and scales them anew."""
    server: Server = request.app.state.server
    key = key_of(request, server.keys, "chat")
    data = await json_body(request, server.settings.max_body)
    body = _parse(data)
    caller = resolve(key.principal, request.headers.items(), data)
    encoder = await run_in_threadpool(lambda: server.model.embedder)
    if body.model != encoder.name:
        server.has_memory(body.model)
    if body.dimensions is not None and body.dimensions > encoder.width:
        raise invalid(f"vectors have {encoder.width} dimensions; ask for so many at most", "dimensions")
    texts = _texts(body, encoder)
    used = await run_in_threadpool(lambda: sum(num_read(encoder, text) for text in texts))
    if used > MOST_TOKENS:
        raise invalid(f"the inputs have {used:,} tokens; send {MOST_TOKENS:,} at most", "input")
    if isinstance(encoder, PooledStates):  # the model works for one at a time, users in turn
        vectors = await asyncio.wrap_future(server.engine.run(caller.turn, lambda: encoder.embed(texts)))
    else:
        vectors = await run_in_threadpool(encoder.embed, texts)
    server.metrics.tokens.labels("prompt").inc(used)
    request.state.allowance.pay(used)
    whole = {
        "object": "list",
        "data": _told(vectors, body),
        "model": body.model or encoder.name,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }
    ignored = ignored_names(data, EmbeddingBody, {})
    return JSONResponse(whole, headers={"x-ltm-ignored": ", ".join(ignored)} if ignored else {})


def _parse(data: Any) -> EmbeddingBody:
    if not isinstance(data, dict):
        raise invalid("the body is no JSON object; send one with input")
    try:
        return EmbeddingBody.model_validate(data)
    except ValidationError as error:
        found = invalid_field(error)
        is_input = (found.param or "").startswith("input")
        raise invalid("input is no text, no list of texts, and no tokens", "input") if is_input else found from None


def _texts(body: EmbeddingBody, encoder: Any) -> list[str]:
    """Inputs as texts; tokens are those of the encoder's own tokenizer."""
    given: Any = body.input
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not 1 <= len(given) <= MOST_INPUTS:
        raise invalid(f"{len(given)} inputs; give 1 to {MOST_INPUTS:,}", "input")
    texts = [one if isinstance(one, str) else _decoded(one, encoder) for one in given]
    for number, text in enumerate(texts):
        if not text.strip():
            raise invalid("an input is empty; give each a word", f"input.{number}")
        well_formed(text, f"input.{number}")
    return texts


def _decoded(tokens: Sequence[int], encoder: Any) -> str:
    tokenizer = getattr(encoder, "tokenizer", None)
    if tokenizer is None:
        raise invalid(f"{encoder.name} has no tokens; give texts", "input")
    if not all(0 <= token < len(tokenizer) for token in tokens):
        raise invalid(f"a token is none of the {len(tokenizer):,} of {encoder.name}; give texts", "input")
    return tokenizer.decode(tokens, skip_special_tokens=True)


def _told(vectors: Tensor, body: EmbeddingBody) -> list[dict[str, Any]]:
    if body.dimensions is not None:
        vectors = nn.functional.normalize(vectors[:, : body.dimensions], dim=1)
    rows = vectors.numpy().astype("<f4")
    as_text = body.encoding_format == "base64"
    told = [base64.b64encode(row.tobytes()).decode() if as_text else row.tolist() for row in rows]
    return [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(told)]
