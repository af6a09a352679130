"""POST /v1/chat/completions: a request checked, handed to the engine, and answered whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ltm.serve.access import json_body, key_of
from ltm.serve.answering import Answering, event
from ltm.serve.chat_request import parse_chat
from ltm.serve.chat_wire import ChatWire
from ltm.serve.chat_work import work_of
from ltm.serve.engine import ChatReply, ChatWork, Piece
from ltm.serve.errors import api_error
from ltm.serve.identity import resolve
from ltm.serve.token_options import TokenBytes
from ltm.serve.tools import CallReader
from ltm.text.token_rules import TokenScore

if TYPE_CHECKING:
    from ltm.serve.app import Server


async def chat_completions(request: Request) -> Response:
    """The route."""
    server: Server = request.app.state.server
    key = key_of(request, server.keys, "chat")
    data = await json_body(request, server.settings.max_body)
    parsed = parse_chat(data)
    caller = resolve(key.principal, request.headers.items(), data)
    work = work_of(server, key, caller, parsed)
    await run_in_threadpool(server.model.grammars.check, work.format)
    user = caller.user if work.reads or work.writes else None
    wire = ChatWire(parsed.body.model or server.model.name, user, server.fingerprint, *_wire_options(server, work))
    headers = {"x-ltm-ignored": ", ".join(parsed.ignored)} if parsed.ignored else {}
    answering = Answering(server, work, request.state.allowance)
    if not parsed.body.stream:
        return JSONResponse(wire.whole(await answering.whole(request)), headers=headers)
    await answering.start()
    return answering.stream(_events(answering, wire, parsed.body.wants_usage), headers)


def _wire_options(server: Server, work: ChatWork) -> tuple[TokenBytes, bool, bool]:
    return server.model.grammars.token_bytes, work.format.tools is not None, work.tokens.num_likeliest is not None


async def _events(answering: Answering, wire: ChatWire, wants_usage: bool) -> AsyncIterator[dict[str, str]]:
    begun = dict[int, _Chunks]()
    async with aclosing(answering.pieces()) as pieces:
        async for piece in pieces:
            if piece.choice not in begun:
                begun[piece.choice] = _Chunks(wire, piece.choice)
                yield event(wire.first(piece.choice))
            for chunk in begun[piece.choice].of(piece):
                yield event(chunk)
    try:
        reply = answering.reply()
    except Exception as error:  # the status is sent already
        yield event(api_error(error).body)
        return
    for chunk in _end(wire, reply, begun, wants_usage):
        yield event(chunk)
    yield {"data": "[DONE]"}


class _Chunks:
    """The chunks of one choice: text, and calls where functions may be called."""

    def __init__(self, wire: ChatWire, choice: int):
        self.wire, self.choice, self.num_calls = wire, choice, 0
        self.reader, self.scores = CallReader() if wire.has_calls else None, list[TokenScore]()

    def of(self, piece: Piece) -> list[dict[str, Any]]:
        self.scores += piece.scores
        parts = [("text", piece.text)] if self.reader is None else self.reader.push(piece.text)
        return self._scored([self._chunk(*part) for part in parts])

    def rest(self) -> list[dict[str, Any]]:
        """What was held back, once the answer has ended."""
        parts = [] if self.reader is None else self.reader.finish()
        chunks = [self._chunk(*part) for part in parts]
        return self._scored(chunks or ([self.wire.piece(self.choice, "")] if self.scores else []))

    def _scored(self, chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The first of some chunks gets the scores that no chunk had yet."""
        if chunks and self.scores:
            chunks[0] = self.wire.scored(chunks[0], self.scores)
            self.scores = []
        return chunks

    def _chunk(self, kind: str, piece: str) -> dict[str, Any]:
        if kind == "text":
            return self.wire.piece(self.choice, piece)
        if kind == "call":
            self.num_calls += 1
            return self.wire.call(self.choice, self.num_calls - 1, piece)
        return self.wire.arguments(self.choice, self.num_calls - 1, piece)


def _end(wire: ChatWire, reply: ChatReply, begun: dict[int, _Chunks], wants_usage: bool) -> list[dict[str, Any]]:
    """The chunks after the last text."""
    chunks, last = [], len(reply.choices) - 1
    for number, choice in enumerate(reply.choices):
        chunks += begun[number].rest() if number in begun else [wire.first(number)]
        chunks.append(wire.last(number, choice, reply, with_memory=number == last and not wants_usage))
    return [*chunks, wire.with_usage(reply)] if wants_usage else chunks
