"""POST /v1/memory/trace: which memories moved which words of an answer, worked out when it is asked.

Nothing is stored for it and no answer waits for it: the answer is scored again with the memories before the question,
and without each of them (`ltm.text.moved`), by the backbone alone. What a bank's attention did is another question,
which `ltm ask --trace` answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ltm.data.passages import Passage
from ltm.methods.registry import create_method
from ltm.serve.access import json_body, key_of
from ltm.serve.chat_request import Lenient, invalid_field, plain_message
from ltm.serve.errors import ApiError, invalid
from ltm.serve.identity import Caller, resolve
from ltm.serve.memory_items import MemoryItems
from ltm.tasks.scoring import text_tokens
from ltm.text.asking import Asking, asked_ids
from ltm.text.moved import Moved, words_moved
from ltm.text.used_passages import token_words

if TYPE_CHECKING:
    from ltm.serve.app import Server
    from ltm.serve.served_model import ServedModel

MOST_ITEMS, MOST_TOKENS = 8, 4096
"""Memories of one trace, and tokens of the prompt with all of them and the answer: it is read once for each and once
more."""


class TracedAnswer(Lenient):
    messages: list[dict[str, Any]] = Field(min_length=2)
    items: list[str] = Field(min_length=1, max_length=MOST_ITEMS)


@dataclass(frozen=True)
class ScoredAgain:
    """words: of the answer, as its tokens; moved: what each memory did, most first; each passage's document is the id
    of its memory."""

    words: list[str]
    moved: list[Moved]


async def trace(request: Request) -> Response:
    """The route."""
    server: Server = request.app.state.server
    key = key_of(request, server.keys, "memory:read")
    data = await json_body(request, server.settings.max_body)
    try:
        asked = TracedAnswer.model_validate(data)
    except ValidationError as error:
        raise invalid_field(error) from None
    caller = resolve(key.principal, request.headers.items(), data)
    messages = [plain_message(message, f"messages.{n}") for n, message in enumerate(asked.messages)]
    if [message["role"] for message in messages[-2:]] != ["user", "assistant"]:
        raise invalid("the last two messages are not a question and its answer", "messages")
    if caller.user is None or not server.model.has_memory:
        raise ApiError(404, "there is no memory that could have moved anything", "memory_not_found")
    done = asyncio.wrap_future(server.engine.run(caller.turn, partial(_told, server, caller, messages, asked.items)))
    await asyncio.wait([done])
    if done.cancelled():
        raise ApiError(503, "the server is stopping; come again", "overloaded")
    return JSONResponse(done.result())


def _told(server: Server, caller: Caller, messages: list[dict[str, Any]], items: list[str]) -> dict[str, Any]:
    """In the engine's thread."""
    with server.users.using(caller) as memory:
        known = [MemoryItems(memory).one(name).item for name in dict.fromkeys(items)]
    shown = [Passage(item.id, None, None, item.text, 1.0) for item in known]
    made = scored_again(server.model, messages, shown)
    moved = [
        {"id": one.passage.document, "text": one.passage.text, "nats": round(one.nats, 3), "tokens": one.tokens}
        for one in made.moved
    ]
    return {"object": "memory.trace", "words": made.words, "items": moved}


def scored_again(model: ServedModel, messages: list[dict[str, Any]], shown: list[Passage]) -> ScoredAgain:
    """What each of the passages does to the last message, as the answer to the one before.

    Raises ApiError 400 for more tokens than MOST_TOKENS.
    """
    *history, question, answer = messages
    method, tokenizer = create_method("full", model.backbone), model.tokenizer
    plain = [Passage(None, None, None, one.text, 1.0) for one in shown]
    prompts = [
        asked_ids(tokenizer, question["content"], passages, Asking(instruction=""), history)
        for passages in (plain, *(plain[:n] + plain[n + 1 :] for n in range(len(plain))))
    ]
    tokens = text_tokens(tokenizer, answer["content"])
    if prompts[0].shape[1] + len(tokens) > MOST_TOKENS:
        raise invalid(f"{prompts[0].shape[1] + len(tokens):,} tokens; {MOST_TOKENS:,} are scored at most", "messages")
    words = token_words(tokenizer, tokens)
    return ScoredAgain(words, words_moved(prompts, tokens, words, shown, lambda _: method.stream(None)))


TRACE_ROUTES = [Route("/v1/memory/trace", trace, methods=["POST"])]
