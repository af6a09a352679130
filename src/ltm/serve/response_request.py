"""The body of a response (OpenAI's Responses API, text alone): what it asks, and the items that it brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field, ValidationError

from ltm.serve.answer_format import AnswerFormat, parse_format
from ltm.serve.chat_request import (
    ChatBody,
    Lenient,
    MemoryOptions,
    ParsedChat,
    Refused,
    ignored_names,
    invalid_field,
    refuse,
)
from ltm.serve.errors import invalid, unsupported
from ltm.serve.messages import check_last, plain_message
from ltm.serve.response_store import Json, new_id
from ltm.serve.token_options import MOST_LIKELIEST, TokenOptions
from ltm.serve.tools import parse_tools

MOST_PAIRS, MOST_KEY, MOST_VALUE = 16, 64, 512
"""Of metadata: pairs, and characters of a key and of a value."""
TEXTS = ("input_text", "output_text", "text")


class ResponseBody(Lenient):
    """What of a request has an effect; every other field is named in `x-ltm-ignored`."""

    input: str | list[Any]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    store: bool | None = None
    text: Any = None
    include: Any = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LIKELIEST)
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    stream: bool | None = False
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    metadata: Any = None
    memory: MemoryOptions | None = None
    user: Any = None
    safety_identifier: Any = None


UNSUPPORTED: Refused = {
    "background": ("background is", bool),
    "context_management": ("context_management is", bool),
    "prompt": ("a stored prompt is", lambda value: value is not None),
    "memory.as_of": ("memory.as_of is", lambda value: value is not None),
    "memory.trace": ("memory.trace is", bool),
}
"""As for a chat completion."""


@dataclass(frozen=True)
class ParsedResponse:
    """body; items: what it brings, as they are kept; conversation: its id; ignored: names of fields without effect;
    format: what an answer has to look like."""

    body: ResponseBody
    items: list[Json]
    conversation: str | None
    metadata: Json
    ignored: list[str]
    format: AnswerFormat = AnswerFormat()

    def chat(self, messages: list[dict[str, Any]]) -> ParsedChat:
        """As a chat completion that asks for the same."""
        body = self.body
        told = {"role": "system", "content": body.instructions}
        whole = [told, *messages] if body.instructions else messages
        check_last(whole, "input")
        same = {name: getattr(body, name) for name in ("model", "temperature", "top_p", "memory")}
        chat = {"messages": whole, "max_completion_tokens": body.max_output_tokens, **same}
        wanted = isinstance(body.include, list) and "message.output_text.logprobs" in body.include
        tokens = TokenOptions(num_likeliest=body.top_logprobs or 0 if wanted or body.top_logprobs else None)
        return ParsedChat(ChatBody.model_validate(chat), whole, self.ignored, self.format, tokens)


def parse_response(data: Any) -> ParsedResponse:
    """A request's JSON, checked. Raises ApiError 400 with the field that cannot be."""
    if not isinstance(data, dict):
        raise invalid("the body is no JSON object; send one with input")
    refuse(data, UNSUPPORTED)
    try:
        body = ResponseBody.model_validate(data)
    except ValidationError as error:
        raise invalid_field(error) from None
    if body.previous_response_id is not None and body.conversation is not None:
        raise invalid("previous_response_id and conversation exclude each other; leave one out", "conversation")
    if body.conversation is not None and body.store is False:
        raise invalid("a conversation keeps what is said in it; leave store out, or conversation", "store")
    name = body.conversation.get("id") if isinstance(body.conversation, dict) else body.conversation
    if body.conversation is not None and not isinstance(name, str):
        raise invalid("conversation is neither an id nor an object with one", "conversation")
    given = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    ignored = ignored_names(data, ResponseBody, UNSUPPORTED)
    wanted = replace(parse_format(text_of(body).get("format"), "text.format"), tools=parse_tools(data, nested=False))
    return ParsedResponse(body, parse_items(given, "input"), name, parse_metadata(body.metadata), ignored, wanted)


def text_of(body: ResponseBody) -> Json:
    """The field `text`, an object."""
    if body.text is not None and not isinstance(body.text, dict):
        raise invalid("text is no object; give one with format", "text")
    return body.text or {}


def parse_items(given: Any, place: str) -> list[Json]:
    """Messages as they are kept, with ids of ours. Reasoning is taken and left out: it has no effect here."""
    if not isinstance(given, list) or not given:
        raise invalid(f"{place} is empty or no list; give one message or more", place)
    kept = [_item(item, f"{place}.{number}") for number, item in enumerate(given)]
    return [item for item in kept if item is not None]


def _item(item: Any, place: str) -> Json | None:
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if kind == "reasoning":
        return None
    if kind == "function_call":
        call = {name: item.get(name) for name in ("call_id", "name", "arguments")}
        plain_message(_called(call), place)
        return call_item(**call)
    if kind == "function_call_output":
        output = plain_message(_resulted({**item, "output": _plain_parts(item.get("output"))}), place)
        return {
            "id": new_id("fco"),
            "type": "function_call_output",
            "call_id": output["tool_call_id"],
            "output": output["content"],
            "status": "completed",
        }
    if kind != "message":
        raise unsupported(f"an item of type {str(kind)[:40]} is", place, "unsupported_content")
    if item.get("role") == "tool":
        raise invalid(f"{place} is a tool's message; send an item of type function_call_output", f"{place}.role")
    plain = plain_message({**item, "content": _plain_parts(item.get("content"))}, place)
    made = message_item(item["role"], plain["content"])
    return {**made, "recalled": True} if plain.get("recalled") else made


def _plain_parts(content: Any) -> Any:
    """Parts of text under the name that a chat completion has for them."""
    if not isinstance(content, list):
        return content
    return [
        {**part, "type": "text"} if isinstance(part, dict) and part.get("type") in TEXTS else part for part in content
    ]


def _called(item: Json) -> Json:
    """A call as a message of a chat."""
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": item["call_id"], "function": function}]}


def _resulted(item: Json) -> Json:
    """The result of a call as a message of a chat."""
    return {"role": "tool", "content": item["output"], "tool_call_id": item.get("call_id")}


def call_item(call_id: str, name: str, arguments: str, status: str = "completed") -> Json:
    """The call of a function as clients get it."""
    names = {"id": new_id("fc"), "type": "function_call", "call_id": call_id}
    return {**names, "name": name, "arguments": arguments, "status": status}


def message_item(role: str, text: str, status: str = "completed") -> Json:
    """A message as clients get it."""
    if role == "assistant":
        part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    else:
        part = {"type": "input_text", "text": text}
    return {"id": new_id("msg"), "type": "message", "role": role, "status": status, "content": [part]}


def messages_of(items: Sequence[Json]) -> list[dict[str, Any]]:
    """Items as messages of a chat, one each, as `plain_message` has them."""
    return [plain_message(_message_of(item), item["id"]) for item in items]


def _message_of(item: Json) -> Json:
    if item["type"] == "function_call":
        return _called(item)
    if item["type"] == "function_call_output":
        return _resulted(item)
    return {**item, "content": item["content"][0]["text"]}


def parse_metadata(given: Any) -> Json:
    """Pairs of text. Raises ApiError 400 for too many, and too long ones."""
    if given is None:
        return {}
    is_fine = isinstance(given, Mapping) and len(given) <= MOST_PAIRS
    if not is_fine or not all(
        len(key) <= MOST_KEY and isinstance(value, str) and len(value) <= MOST_VALUE for key, value in given.items()
    ):
        raise invalid(
            f"metadata holds {MOST_PAIRS} pairs of text at most, keys of {MOST_KEY} characters, values of {MOST_VALUE}",
            "metadata",
        )
    return dict(given)
