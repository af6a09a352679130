"""Responses as they go over the wire: whole, and as the named events of a stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ltm.serve.answering import event
from ltm.serve.chat_wire import memory_told
from ltm.serve.engine import ChatReply
from ltm.serve.errors import ApiError
from ltm.serve.response_request import Json, ParsedResponse, message_item, text_of
from ltm.serve.response_store import new_id


@dataclass
class ResponseWire:
    """One response; user: whose memory it had, None for none; keeps: whether it can be asked for later. Events are
    numbered as they are made."""

    parsed: ParsedResponse
    model: str
    user: str | None
    keeps: bool
    id: str = field(default_factory=lambda: new_id("resp"))
    message: Json = field(default_factory=lambda: message_item("assistant", "", "in_progress"))
    created: int = field(default_factory=lambda: int(time.time()))
    number: int = 0

    def whole(self, reply: ChatReply) -> Json:
        """The object `response`, as it is kept, too."""
        (choice,) = reply.choices
        is_cut = choice.reason == "length"
        status = "incomplete" if is_cut else "completed"
        return {
            **self._frame(status, [self._message(choice.text, status)]),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": _usage(reply),
            "memory": memory_told(self.user, reply),
        }

    def begin(self) -> Iterator[dict[str, str]]:
        """Events before the first text."""
        for name in ("response.created", "response.in_progress"):
            yield self._event(name, response=self._frame("in_progress", []))
        started = {**self.message, "content": []}
        yield self._event("response.output_item.added", output_index=0, item=started)
        yield self._event("response.content_part.added", **self._place(), part=self._message("")["content"][0])

    def piece(self, text: str) -> dict[str, str]:
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def end(self, response: Json) -> Iterator[dict[str, str]]:
        """Events after the last text; response: the whole one."""
        (item,) = response["output"]
        (part,) = item["content"]
        yield self._event("response.output_text.done", **self._place(), text=part["text"], logprobs=[])
        yield self._event("response.content_part.done", **self._place(), part=part)
        yield self._event("response.output_item.done", output_index=0, item=item)
        yield self._event(f"response.{response['status']}", response=response)

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
            "parallel_tool_calls": True,
            "previous_response_id": body.previous_response_id,
            "conversation": None if self.parsed.conversation is None else {"id": self.parsed.conversation},
            "store": self.keeps,
            "temperature": body.temperature,
            "text": {"format": text_of(body).get("format") or {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def _message(self, text: str, status: str = "in_progress") -> Json:
        (part,) = self.message["content"]
        return {**self.message, "status": status, "content": [{**part, "text": text}]}

    def _place(self) -> Json:
        return {"item_id": self.message["id"], "output_index": 0, "content_index": 0}

    def _event(self, name: str, **values: Any) -> dict[str, str]:
        number, self.number = self.number, self.number + 1
        return event({"type": name, "sequence_number": number, **values}, name)


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
