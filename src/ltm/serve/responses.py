"""/v1/responses: answers that a client can go on from by their id alone, because the server kept them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ltm.serve.access import json_body, key_of
from ltm.serve.answering import Answering
from ltm.serve.chat_work import work_of
from ltm.serve.engine import ChatReply, ChatWork
from ltm.serve.errors import ApiError, api_error, invalid
from ltm.serve.identity import Caller, resolve
from ltm.serve.kept_turns import forget_session, kept_items
from ltm.serve.keys import ApiKey
from ltm.serve.response_request import Json, ParsedResponse, messages_of, parse_response
from ltm.serve.response_store import History, ResponseStore
from ltm.serve.response_wire import ResponseWire
from ltm.text.generation import question_ids

if TYPE_CHECKING:
    from ltm.serve.app import Server

Result = TypeVar("Result")
MOST_LISTED, USUALLY_LISTED = 100, 20


@dataclass(frozen=True)
class _Asked:
    """A request that is understood: what to do, how to tell it, and what it goes on from."""

    server: Server
    work: ChatWork
    wire: ResponseWire

    async def keep(self, reply: ChatReply) -> Json:
        """The response; on the disk, if it is to be kept, before anybody hears of it."""
        response = self.wire.whole(reply)
        if not self.wire.keeps:
            return response
        work, asked, caller = self.work, self.wire.parsed.items, self.work.caller
        old = work.messages[work.num_known : len(work.messages) - len(asked)]
        kept = kept_items(old, [*asked, *response["output"]], caller.session, work.after)
        try:
            await stored(self.server, caller, lambda store: store.add(response, kept, caller.session), make=True)
        except ApiError as error:
            if error.status == 404 and caller.session is not None:  # its conversation was deleted meanwhile
                await forget_session(self.server, caller, caller.session)
            raise
        return response


async def create(request: Request) -> Response:
    """POST /v1/responses."""
    server: Server = request.app.state.server
    key = key_of(request, server.keys, "chat")
    data = await json_body(request, server.settings.max_body)
    parsed = parse_response(data)
    caller = resolve(key.principal, request.headers.items(), data)
    asked = await _understood(server, key, caller, parsed)
    await run_in_threadpool(server.model.grammars.check, asked.work.format)
    headers = {"x-ltm-ignored": ", ".join(parsed.ignored)} if parsed.ignored else {}
    answering = Answering(server, asked.work, request.state.allowance)
    if not parsed.body.stream:
        return JSONResponse(await asked.keep(await answering.whole(request)), headers=headers)
    await answering.start()
    return answering.stream(_events(answering, asked), headers)


async def _events(answering: Answering, asked: _Asked) -> AsyncIterator[dict[str, str]]:
    for one in asked.wire.begin():
        yield one
    async with aclosing(answering.pieces()) as pieces:
        async for piece in pieces:
            for one in asked.wire.pieces(piece):
                yield one
    try:
        reply = answering.reply()
        for one in asked.wire.rest():
            yield one
        response = await asked.keep(reply)
    except Exception as error:  # the status is sent already
        yield asked.wire.failed(api_error(error))
        return
    for one in asked.wire.end(response):
        yield one


async def _understood(server: Server, key: ApiKey, caller: Caller, parsed: ParsedResponse) -> _Asked:
    """What is to be done for a request. Raises ApiError."""
    keeps = _keeps(key, caller, parsed)
    history = await _history(server, key, caller, parsed)
    if history is None:
        history = History(session=caller.session)
    chat = parsed.chat(messages_of([*(one.item for one in history.items), *parsed.items]))
    work = work_of(server, key, replace(caller, session=history.session), chat)
    tail, after = history.tail
    work = replace(work, num_known=len(chat.messages) - len(parsed.items) - len(tail), after=after)
    user = caller.user if work.reads or work.writes else None
    return _Asked(
        server,
        work,
        ResponseWire(parsed, parsed.body.model or server.model.name, user, keeps, server.model.grammars.token_bytes),
    )


def _keeps(key: ApiKey, caller: Caller, parsed: ParsedResponse) -> bool:
    """Whether a response is kept: if nothing else is said, where its user's memory may be written."""
    body = parsed.body
    may = caller.user is not None and key.may("memory:write")
    if body.store is None and parsed.conversation is None:
        return may and (body.memory is None or body.memory.write)
    if body.store is False:
        return False
    if caller.user is None and parsed.conversation is None:
        raise invalid("nothing is stored for nobody; name a user, or leave store out", "store")
    if not key.may("memory:write"):
        raise ApiError(403, "this key has no scope memory:write", "memory_forbidden", "store")
    return True


async def _history(server: Server, key: ApiKey, caller: Caller, parsed: ParsedResponse) -> History | None:
    """What a request goes on from; None for nothing that the server knows. Raises ApiError: 403, 404."""
    previous, conversation = parsed.body.previous_response_id, parsed.conversation
    if previous is None and conversation is None:
        return None
    if not key.may("memory:read"):
        raise ApiError(403, "this key has no scope memory:read", "memory_forbidden")
    if conversation is not None:
        return await stored(server, caller, lambda store: store.history_of_conversation(conversation))
    return await stored(server, caller, lambda store: store.history_of_response(previous or ""))


async def stored(
    server: Server, caller: Caller, call: Callable[[ResponseStore], Result], *, make: bool = False
) -> Result:
    """What a call finds, or does, in a user's store."""

    def run() -> Result:
        with server.users.responses(caller, make=make) as store:
            return call(store)

    return await run_in_threadpool(run)


def asking(request: Request, scope: str, body: Any = None) -> Caller:
    """Whose store a request without a question is about."""
    server: Server = request.app.state.server
    key = key_of(request, server.keys, scope)
    return resolve(key.principal, request.headers.items(), body if isinstance(body, dict) else {})


async def input_tokens(request: Request) -> Response:
    """POST /v1/responses/input_tokens: how many tokens a request's input would be, without what would be recalled."""
    server: Server = request.app.state.server
    key = key_of(request, server.keys, "chat")
    data = await json_body(request, server.settings.max_body)
    parsed = parse_response(data)
    caller = resolve(key.principal, request.headers.items(), data)
    *history, last = (await _understood(server, key, caller, parsed)).work.prompt
    ids = await run_in_threadpool(question_ids, server.model.tokenizer, last["content"], history)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": ids.shape[1]})


async def cancel(request: Request) -> Response:
    """POST /v1/responses/{id}/cancel: none is made in the background, so there is none to cancel."""
    caller, name = asking(request, "memory:write"), request.path_params["id"]
    await stored(request.app.state.server, caller, lambda store: store.response(name))
    raise invalid("this response was not made in the background; close its connection to end one", "id")


async def retrieve(request: Request) -> Response:
    """GET /v1/responses/{id}."""
    caller, name = asking(request, "memory:read"), request.path_params["id"]
    if request.query_params.get("stream") == "true":
        raise invalid("a response that was made is not streamed again; leave stream out", "stream")
    return JSONResponse(await stored(request.app.state.server, caller, lambda store: store.response(name)))


async def delete(request: Request) -> Response:
    """DELETE /v1/responses/{id}: the response, not what its user's memory learnt."""
    caller, name = asking(request, "memory:write"), request.path_params["id"]
    await stored(request.app.state.server, caller, lambda store: store.delete_response(name))
    return JSONResponse({"id": name, "object": "response", "deleted": True})


async def input_items(request: Request) -> Response:
    """GET /v1/responses/{id}/input_items."""
    caller, name, page = asking(request, "memory:read"), request.path_params["id"], page_of(request)

    def find(store: ResponseStore) -> Json:
        store.response(name)
        return store.page("response", name, **page)

    return JSONResponse(await stored(request.app.state.server, caller, find))


def page_of(request: Request) -> dict[str, Any]:
    """after, limit, order of a list's query. Raises ApiError 400."""
    given = request.query_params
    limit, order = given.get("limit", str(USUALLY_LISTED)), given.get("order", "desc")
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= MOST_LISTED:
        raise invalid(f"limit={limit[:20]!r}; give a number from 1 to {MOST_LISTED}", "limit")
    if order not in ("asc", "desc"):
        raise invalid(f"order={order[:20]!r}; give asc or desc", "order")
    return {"after": given.get("after"), "limit": int(limit[:9]), "order": order}


RESPONSE_ROUTES = [
    Route("/v1/responses", create, methods=["POST"]),
    Route("/v1/responses/input_tokens", input_tokens, methods=["POST"]),
    Route("/v1/responses/{id}/cancel", cancel, methods=["POST"]),
    Route("/v1/responses/{id}", retrieve, methods=["GET"]),
    Route("/v1/responses/{id}", delete, methods=["DELETE"]),
    Route("/v1/responses/{id}/input_items", input_items, methods=["GET"]),
]
