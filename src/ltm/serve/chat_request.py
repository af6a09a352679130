"""The body of a chat completion: what it asks, what of it is ignored, and what is refused as not done here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ltm.serve.answer_format import AnswerFormat, parse_format
from ltm.serve.errors import ApiError, invalid, unsupported
from ltm.serve.messages import check_last, plain_message
from ltm.serve.token_options import MOST_LIKELIEST, TokenOptions, parse_bias
from ltm.serve.tools import parse_tools

MOST_IGNORED, MOST_NAME = 20, 64
"""Fields that are named as ignored, and characters of each."""


class Lenient(BaseModel):
    """Takes what it does not know; numbers may come as text."""

    model_config = ConfigDict(extra="allow", frozen=True)


class StreamOptions(Lenient):
    include_usage: bool = False


class MemoryOptions(Lenient):
    """Our own field `memory` (`extra_body` of the official client); who it is about is read by `identity`."""

    user: Any = None
    namespace: Any = None
    session: Any = None
    read: bool = True
    write: bool = True
    k: int | None = Field(None, ge=1, le=50)
    method: str | None = None


class ChatBody(Lenient):
    """What of a request has an effect; every other field is named in `x-ltm-ignored`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=4)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LIKELIEST)
    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    memory: MemoryOptions | None = None
    user: Any = None
    safety_identifier: Any = None
    metadata: Any = None
    conversation: Any = None
    previous_response_id: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


@dataclass(frozen=True)
class ParsedChat:
    """body; messages: as `plain_message` has them, a user's or a tool's last; ignored: names of fields without effect;
    format: what an answer has to look like; tokens: what is said of single tokens."""

    body: ChatBody
    messages: list[dict[str, Any]]
    ignored: list[str]
    format: AnswerFormat = AnswerFormat()
    tokens: TokenOptions = TokenOptions()


Refused = Mapping[str, tuple[str, Callable[[Any], bool]]]
UNSUPPORTED: Refused = {
    "functions": ("functions are", bool),
    "function_call": ("function_call is", lambda value: value not in (None, "none", "auto")),
    "modalities": ("modalities other than text are", lambda value: value not in (None, ["text"])),
    "audio": ("audio is", bool),
    "web_search_options": ("web search is", lambda value: value is not None),
    "memory.as_of": ("memory.as_of is", lambda value: value is not None),
    "memory.trace": ("memory.trace is", bool),
}
"""What would change the answer and is not done, and when it is asked for: refused, never left out in silence."""


def parse_chat(data: Any) -> ParsedChat:
    """A request's JSON, checked. Raises ApiError 400 with the field that cannot be."""
    if not isinstance(data, dict):
        raise invalid("the body is no JSON object; send one with messages")
    refuse(data, UNSUPPORTED)
    try:
        body = ChatBody.model_validate(data)
    except ValidationError as error:
        raise invalid_field(error) from None
    if len(body.stops) > 4:
        raise invalid(f"stop holds {len(body.stops)} strings; give 4 at most", "stop")
    if body.seed is not None and not -(2**63) <= body.seed < 2**63:
        raise invalid(f"seed={body.seed}; give a number of 64 bits", "seed")
    messages = [plain_message(message, f"messages.{n}") for n, message in enumerate(body.messages)]
    check_last(messages, f"messages.{len(messages) - 1}.role")
    wanted = replace(
        parse_format(body.response_format, "response_format", "json_schema"), tools=parse_tools(data, nested=True)
    )
    return ParsedChat(body, messages, ignored_names(data, ChatBody, UNSUPPORTED), wanted, _token_options(body))


def _token_options(body: ChatBody) -> TokenOptions:
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs says how many and logprobs is not true; set it", "top_logprobs")
    return TokenOptions(
        body.presence_penalty or 0.0,
        body.frequency_penalty or 0.0,
        parse_bias(body.logit_bias),
        (body.top_logprobs or 0) if body.logprobs else None,
    )


def refuse(data: dict[str, Any], refused: Refused) -> None:
    """Raise ApiError 400 for the first field that asks for what is not done."""
    for name, (what, is_asked) in refused.items():
        if is_asked(_value(data, name)):
            raise unsupported(what, name)


def ignored_names(data: dict[str, Any], body: type[Lenient], refused: Refused) -> list[str]:
    """Names of fields without effect, as a header may hold them."""
    parents = {name.partition(".")[0] for name in refused}
    names = [name for name in data if name not in body.model_fields and name not in parents]
    memory = data.get("memory")
    if isinstance(memory, dict):
        own = [name for name in memory if name not in MemoryOptions.model_fields and f"memory.{name}" not in refused]
        names += [f"memory.{name}" for name in own]
    names += [name for name, (_, is_asked) in refused.items() if _value(data, name) in ("none", "auto")]
    return header_names(names)


def header_names(names: Iterable[str]) -> list[str]:
    """Names of fields as a header may hold them."""
    plain = ["".join(c if c.isascii() and (c.isalnum() or c in "._-") else "?" for c in name) for name in names]
    return [name[:MOST_NAME] or "?" for name in plain[:MOST_IGNORED]]


def _value(data: dict[str, Any], name: str) -> Any:
    """The value at a.b."""
    value: Any = data
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def invalid_field(error: ValidationError) -> ApiError:
    """The first of pydantic's findings, in one line."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"][:4]))
    said = first["msg"]
    return invalid(f"{field}: {said[:1].lower()}{said[1:]}", field)
