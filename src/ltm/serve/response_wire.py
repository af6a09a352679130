"""Responses as they go over the wire: whole, and as the named events of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from ltm.serve.answering import event
from ltm.serve.chat_wire import memory_told
from ltm.serve.engine import ChatReply, Choice, Piece
from ltm.serve.errors import ApiError
from ltm.serve.response_request import Json, ParsedResponse, call_item, message_item, text_of
from ltm.serve.response_store import new_id
from ltm.serve.token_options import TokenBytes, told_scores
from ltm.serve.tools import CallReader


class ResponseWire:
    """One response; user: whose memory it had, None for none; keeps: whether it can be asked for later; token_bytes:
    what a token says. Events are numbered as they are made; an item of the output begins with its first piece, and is
    the same in the whole."""

    def __init__(
        self, parsed: ParsedResponse, model: str, user: str | None, keeps: bool, token_bytes: TokenBytes = bytes
    ):
        self.token_bytes = token_bytes
        self.parsed, self.model, self.user, self.keeps = parsed, model, user, keeps
        self.id, self.created, self.number = new_id("resp"), int(time.time()), 0
        self.output: list[Json] = []
        self._scores: list[Json] = []  # of tokens whose text was not told yet
        self._reader = CallReader() if parsed.format.tools is not None else None

    def whole(self, reply: ChatReply) -> Json:
        """The object `response`, as it is kept, too. What was streamed is in its output already."""
        (choice,) = reply.choices
        if not self.output:
            self._add_whole(choice)
        is_cut = choice.reason == "length"
        status = "incomplete" if is_cut else "completed"
        output = [{**item, "status": "completed"} for item in self.output]
        if is_cut:
            output[-1]["status"] = status
        _cite(output, reply)
        return {
            **self._frame(status, output),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": _usage(reply),
            "memory": memory_told(self.user, reply),
        }

    def _add_whole(self, choice: Choice) -> None:
        if choice.text or not choice.calls:
            self.output.append(message_item("assistant", choice.text, "in_progress"))
            self.output[-1]["content"][0]["logprobs"] = told_scores(choice.scores, self.token_bytes)
        self.output += [call_item(_call_id(), call.name, call.arguments, "in_progress") for call in choice.calls]

    # a stream

    def begin(self) -> Iterator[dict[str, str]]:
        """Events before the first text."""
        for name in ("response.created", "response.in_progress"):
            yield self._event(name, response=self._frame("in_progress", []))

    def pieces(self, new: Piece) -> Iterator[dict[str, str]]:
        """Events of a piece of the answer."""
        self._scores += told_scores(new.scores, self.token_bytes)
        for kind, piece in [("text", new.text)] if self._reader is None else self._reader.push(new.text):
            yield from self._piece(kind, piece)

    def rest(self) -> Iterator[dict[str, str]]:
        """Events of what was held back, once the answer has ended; an answer of nothing is an empty message."""
        for kind, piece in [] if self._reader is None else self._reader.finish():
            yield from self._piece(kind, piece)
        if not self.output:
            yield from self._open(message_item("assistant", "", "in_progress"))

    def end(self, response: Json) -> Iterator[dict[str, str]]:
        """Events after the last text; response: the whole one."""
        yield from self._close(response["output"][-1])
        yield self._event(f"response.{response['status']}", response=response)

    def _piece(self, kind: str, piece: str) -> Iterator[dict[str, str]]:
        if kind == "call":
            yield from self._open(call_item(_call_id(), piece, "", "in_progress"))
        elif kind == "arguments":
            self.output[-1]["arguments"] += piece
            yield self._event("response.function_call_arguments.delta", **self._place(), delta=piece)
        else:
            if not self.output or self.output[-1]["type"] != "message":
                yield from self._open(message_item("assistant", "", "in_progress"))
            (part,), scores, self._scores = self.output[-1]["content"], self._scores, []
            part |= {"text": part["text"] + piece, "logprobs": [*part["logprobs"], *scores]}
            yield self._event("response.output_text.delta", **self._part_place(), delta=piece, logprobs=scores)

    def _open(self, item: Json) -> Iterator[dict[str, str]]:
        """Begin an item; the one before has ended."""
        if self.output:
            yield from self._close({**self.output[-1], "status": "completed"})
        self.output.append(item)
        is_message = item["type"] == "message"
        shown = {**item, "content": []} if is_message else dict(item)
        yield self._event("response.output_item.added", output_index=len(self.output) - 1, item=shown)
        if is_message:
            yield self._event("response.content_part.added", **self._part_place(), part=dict(item["content"][0]))

    def _close(self, item: Json) -> Iterator[dict[str, str]]:
        """End the last item, as it is now."""
        if item["type"] == "message":
            (part,) = item["content"]
            yield self._event(
                "response.output_text.done", **self._part_place(), text=part["text"], logprobs=part["logprobs"]
            )
            yield self._event("response.content_part.done", **self._part_place(), part=part)
        else:
            told = {"arguments": item["arguments"], "name": item["name"]}
            yield self._event("response.function_call_arguments.done", **self._place(), **told)
        yield self._event("response.output_item.done", output_index=len(self.output) - 1, item=item)

    def _place(self) -> Json:
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1}

    def _part_place(self) -> Json:
        return {**self._place(), "content_index": 0}

    def failed(self, error: ApiError) -> dict[str, str]:
        """The last event of a stream that went wrong."""
        code = error.code if error.status < 500 and error.code else "server_error"
        told = {"code": code, "message": error.message}
        return self._event("response.failed", response={**self._frame("failed", []), "error": told})

    def _frame(self, status: str, output: list[Json]) -> Json:
        body = self.parsed.body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": self.parsed.metadata,
            "model": self.model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "conversation": None if self.parsed.conversation is None else {"id": self.parsed.conversation},
            "store": self.keeps,
            "temperature": body.temperature,
            "text": {"format": text_of(body).get("format") or {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def _event(self, kind: str, **values: Any) -> dict[str, str]:
        number, self.number = self.number, self.number + 1
        return event({"type": kind, "sequence_number": number, **values}, kind)


def _cite(output: list[Json], reply: ChatReply) -> None:
    """Name the memories that were used as files that the text cites, where clients look for such."""
    for item in output:
        if item["type"] == "message":
            (part,) = item["content"]
            cited = [
                {"type": "file_citation", "file_id": one["id"], "filename": f"{one['source']} {one['t']}", "index": 0}
                for one in reply.used
            ]
            item["content"] = [{**part, "annotations": cited}]


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _usage(reply: ChatReply) -> Json:
    """Tokens, as `chat_wire.usage` under this API's names."""
    made = sum(choice.num_tokens for choice in reply.choices)
    return {
        "input_tokens": reply.prompt_tokens,
        "input_tokens_details": {"cached_tokens": reply.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.prompt_tokens + made,
    }
