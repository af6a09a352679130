"""Writers: what writes text for a text memory, whatever it runs on, and says how likely given answers are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from threading import Lock
from types import NoneType
from typing import Any, Protocol, TypeVar, get_args, get_origin

from ltm.decode_json import field_types, typed
from ltm.errors import LtmError, short_repr

Message = Mapping[str, Any]
"""{"role": "system", "user" or "assistant", "content": text}; "recalled": True marks text that a memory put in."""
Messages = Sequence[Message]
OnText = Callable[[str], None]

Kind = TypeVar("Kind")


class WriterError(LtmError):
    """A writer that did not answer, or whose answer is not what was asked for."""


@dataclass
class Usage:
    """What a writer was asked for so far: calls, tokens of prompts, tokens that it wrote or scored."""

    calls: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    _lock: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    def add(self, prompt_tokens: int, new_tokens: int) -> None:
        with self._lock:
            self.calls, self.prompt_tokens = self.calls + 1, self.prompt_tokens + prompt_tokens
            self.new_tokens += new_tokens


class Writer(Protocol):
    """A language model as text memories see it, from any thread.

    name: for messages and results; usage: counted over its life.
    """

    @property
    def name(self) -> str: ...

    @property
    def usage(self) -> Usage: ...

    def write(
        self,
        messages: Messages,
        schema: dict[str, Any] | None = None,
        max_tokens: int = 256,
        *,
        on_text: OnText | None = None,
        **sampling: Any,
    ) -> str:
        """The answer to messages, at most so many tokens of it.

        schema: JSON schema that the answer should follow; a writer that cannot force it writes what it writes, see
        `write_as`. on_text gets the text as it comes. sampling: temperature, top_p, repetition_penalty, seed. Raises
        WriterError, in one line, where there is no answer.
        """
        ...

    def score(self, prompt: str | Messages, choices: Sequence[str]) -> list[float]:
        """How likely each text is as what goes on after a prompt, or as the answer to messages: nats, summed over its
        tokens. What a small model cannot write can be asked in this way."""
        ...


def merged(messages: Messages) -> list[dict[str, str]]:
    """Role and content alone, neighbours of one role as one message, a blank line between them: many chat templates
    take no two in a row. Raises LtmError for what is no message.

    >>> merged([{"role": "user", "content": "[1] Noon.", "recalled": True}, {"role": "user", "content": "When?"}])
    [{'role': 'user', 'content': '[1] Noon.\\n\\nWhen?'}]
    """
    joined: list[dict[str, str]] = []
    for message in messages:
        if not all(isinstance(message.get(name), str) for name in ("role", "content")):
            raise LtmError(f'{short_repr(dict(message))} is no message; give {{"role": "user", "content": "..."}}')
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1]["content"] += f"\n\n{message['content']}"
        else:
            joined.append({"role": message["role"], "content": message["content"]})
    if not joined:
        raise LtmError("no messages came; give at least one")
    return joined


def write_as(writer: Writer, kind: type[Kind], messages: Messages, max_tokens: int = 512) -> Kind:
    """A writer's answer as a dataclass: its fields become the JSON schema, and the answer is checked against them.

    Text around the JSON object, and fields that nobody asked for, are passed over. Raises WriterError for an answer
    that holds no such object.

    >>> write_as(writer, Described, [{"role": "user", "content": "..."}]).keywords  # doctest: +SKIP
    ['harpoon', 'whale']
    """
    schema = schema_of(kind)
    answer, names = writer.write(messages, schema, max_tokens), schema["properties"]
    try:
        value = {**_defaults(kind), **_first_object(answer)}
        return typed(kind, {name: value[name] for name in names if name in value}, "it")
    except ValueError as error:
        raise WriterError(
            f"writer {writer.name} answered {short_repr(answer)}, not JSON with {', '.join(names)} ({error}); nothing "
            "of it was kept; try again, or take another writer"
        ) from error


def _defaults(kind: Any) -> dict[str, Any]:
    """What fields are where an answer leaves them out."""
    plain = {own.name: own.default for own in fields(kind) if own.default is not MISSING}
    return plain | {own.name: own.default_factory() for own in fields(kind) if own.default_factory is not MISSING}


def _first_object(text: str) -> dict[str, Any]:
    """The first JSON object in a text; ValueError for none."""
    for match in re.finditer(r"\{", text):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        return value
    raise ValueError("it holds no JSON object")


_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of a dataclass, a list, an optional value or a plain one.

    >>> schema_of(list[int])
    {'type': 'array', 'items': {'type': 'integer'}}
    """
    if hasattr(kind, "__dataclass_fields__"):
        required = [own.name for own in fields(kind) if own.name not in _defaults(kind)]
        properties = {name: schema_of(hint) for name, hint in field_types(kind).items()}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if get_origin(kind) is list:
        return {"type": "array", "items": schema_of(get_args(kind)[0])}
    if NoneType in get_args(kind):
        inner = schema_of(next(member for member in get_args(kind) if member is not NoneType))
        return {"anyOf": [inner, {"type": "null"}]}
    return {"type": _JSON_TYPES[get_origin(kind) or kind]}
