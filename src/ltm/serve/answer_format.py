"""What an answer has to look like: any text, or JSON that follows a schema."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm.serve.errors import ApiError, invalid, unsupported

if TYPE_CHECKING:
    from ltm.serve.tools import Toolbox

Json = dict[str, Any]

MOST_SCHEMA_CHARS = 100_000
FORMATS = ("text", "json_object", "json_schema")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class AnswerFormat:
    """schema: of JSON that an answer is; None: it is any text. param: the field that asks for it. tools: functions that
    may be called in its place, or must be; None: none."""

    schema: Json | None = None
    param: str = "response_format"
    tools: Toolbox | None = None


def parse_format(given: Any, param: str, inner: str | None = None) -> AnswerFormat:
    """What `response_format` of a chat completion asks for (inner: "json_schema", the field that holds name and
    schema), or `text.format` of a response (where they stand beside the type). Raises ApiError 400.

    >>> parse_format({"type": "json_object"}, "text.format").schema
    {'type': 'object'}
    """
    if given is None:
        return AnswerFormat()
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in FORMATS:
        raise unsupported(f"a {param} of type {str(kind)[:40]} is", f"{param}.type")
    if kind == "text":
        return AnswerFormat()
    if kind == "json_object":
        return AnswerFormat({"type": "object"}, param)
    place = f"{param}.{inner}" if inner else param
    told = given.get(inner) if inner else given
    name = told.get("name") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid(f"{place} has no name of letters, digits, _ and -, 64 at most", f"{place}.name")
    return AnswerFormat(checked_schema(told.get("schema"), f"{place}.schema"), f"{place}.schema")


def checked_schema(given: Any, param: str) -> Json:
    """A JSON schema as it came, an object of moderate size; whether it can be had, the grammar says."""
    if not isinstance(given, dict):
        raise invalid(f"{param} is no JSON schema; give an object", param, "invalid_json_schema")
    try:
        size = len(json.dumps(given))
    except RecursionError:
        size = MOST_SCHEMA_CHARS + 1
    if size > MOST_SCHEMA_CHARS:
        raise invalid(f"{param} has more than {MOST_SCHEMA_CHARS:,} characters", param, "invalid_json_schema")
    return given


def refused_schema(why: str, param: str) -> ApiError:
    """A schema that no answer can be made to follow here."""
    words = " ".join(why.split())[:300]
    return invalid(
        f"answers cannot be held to this schema: {words}; leave it out, or say it otherwise",
        param,
        "invalid_json_schema",
    )
