"""Functions that a model may call: what a request offers, how it is told to the model, and calls in what it wrote.

Calls are written as the templates of Hermes and Qwen have them, one way for every model: a function's name and its
arguments as JSON between <tool_call> and </tool_call>, results as a user's turn between <tool_response> and
</tool_response>. A grammar holds calls to it (`ltm.serve.grammar`), so that reading them needs no guessing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltm.serve.answer_format import Json, checked_schema
from ltm.serve.errors import invalid, unsupported
from ltm.serve.stops import held_back

MOST_TOOLS = 128
MOST_CALLS = 8
"""Of one answer: a small model that may go on calling does."""
BEGIN, BETWEEN, END = '<tool_call>{"name": "', '", "arguments": ', "}</tool_call>"
"""Around the name and the arguments of a call."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Tool:
    """A function: its name, what it does, and the JSON schema of its arguments, an object."""

    name: str
    description: str
    parameters: Json
    param: str = "tools"

    def told(self) -> str:
        """As the model is told."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


@dataclass(frozen=True)
class Toolbox:
    """tools that may be called; must: an answer has to be a call; parallel: several calls in one answer may be."""

    tools: tuple[Tool, ...]
    must: bool = False
    parallel: bool = True

    def instruction(self) -> str:
        """What the model is told, in the words of Hermes' and Qwen's templates."""
        told = "\n".join(tool.told() for tool in self.tools)
        return (
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{told}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within "
            "<tool_call></tool_call> XML tags:\n"
            '<tool_call>{"name": <function-name>, "arguments": <args-json-object>}</tool_call>'
        )


@dataclass(frozen=True)
class ToolCall:
    """A function's name and its arguments as JSON text, which max_tokens may have cut."""

    name: str
    arguments: str


# what a request offers


def parse_tools(data: Mapping[str, Any], *, nested: bool) -> Toolbox | None:
    """Of `tools`, `tool_choice` and `parallel_tool_calls`; None where nothing may be called. nested: whether a function
    stands in a field `function`, as in chat completions, or beside its type, as in responses. Raises ApiError 400."""
    tools, choice = _offered(data.get("tools"), nested), data.get("tool_choice")
    parallel = data.get("parallel_tool_calls") is not False
    if choice in (None, "auto", "none"):
        return Toolbox(tools, parallel=parallel) if tools and choice != "none" else None
    if choice == "required":
        wanted, must = tools, True
    else:
        wanted, must, parallel = _chosen(tools, choice, parallel, nested)
    if not wanted:
        raise invalid("tool_choice asks for a call and there is no such tool; give it in tools", "tool_choice")
    return Toolbox(wanted, must, parallel)


def _offered(given: Any, nested: bool) -> tuple[Tool, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > MOST_TOOLS:
        raise invalid(f"tools is no list of {MOST_TOOLS} functions at most", "tools")
    tools = tuple(_tool(one, f"tools.{number}", nested) for number, one in enumerate(given))
    if len({tool.name for tool in tools}) < len(tools):
        raise invalid("two tools have one name; give each its own", "tools")
    return tools


def _tool(given: Any, place: str, nested: bool) -> Tool:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind != "function":
        raise unsupported(f"a tool of type {str(kind)[:40]} is", place)
    place, told = (f"{place}.function", given.get("function")) if nested else (place, given)
    name = told.get("name") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid(f"{place} has no name of letters, digits, _ and -, 64 at most", f"{place}.name")
    description = told.get("description") or ""
    if not isinstance(description, str):
        raise invalid(f"{place}.description is no text", f"{place}.description")
    parameters = told.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    return Tool(name, description, _arguments_schema(parameters, f"{place}.parameters"), f"{place}.parameters")


def _arguments_schema(given: Any, param: str) -> Json:
    """Of an object; `{"type": "object"}` is added where a client leaves it out."""
    schema = checked_schema(given, param)
    if schema.setdefault("type", "object") != "object":
        raise invalid(f"{param} describes no object; arguments are one", param, "invalid_json_schema")
    return schema


def _chosen(tools: tuple[Tool, ...], choice: Any, parallel: bool, nested: bool) -> tuple[tuple[Tool, ...], bool, bool]:
    """What a choice that is an object leaves: tools, whether one must be called, whether several may be."""
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "function":
        told = choice.get("function") if nested else choice
        name = told.get("name") if isinstance(told, dict) else None
        return tuple(tool for tool in tools if tool.name == name), True, False
    if kind == "allowed_tools":
        told = choice.get("allowed_tools") if nested else choice
        named = told.get("tools") if isinstance(told, dict) else None
        names = [_name_in(one, nested) for one in named] if isinstance(named, list) else []
        return tuple(tool for tool in tools if tool.name in names), told.get("mode") == "required", parallel
    raise unsupported("this tool_choice is", "tool_choice")


def _name_in(given: Any, nested: bool) -> Any:
    told = given.get("function") if nested and isinstance(given, dict) else given
    return told.get("name") if isinstance(told, dict) else None


# what the model sees


def prompt_messages(messages: Sequence[Json], toolbox: Toolbox | None) -> list[Json]:
    """Messages as the model gets them, role and content alone: the tools told in the system prompt, calls within what
    the assistant said, results as a user's turn."""
    shown: list[Json] = []
    for message in messages:
        role, content = _shown(message)
        joins = shown and role == shown[-1]["role"] and ("tool" in (message["role"], shown[-1]["from"]) or not content)
        if joins or (shown and role == shown[-1]["role"] == "assistant" and message.get("tool_calls")):
            shown[-1] |= {"content": "\n".join(filter(None, (shown[-1]["content"], content))), "from": message["role"]}
        else:
            shown.append({"role": role, "content": content, "from": message["role"]})
    if toolbox is not None:
        told = [toolbox.instruction()]
        if shown and shown[0]["role"] == "system":
            told.insert(0, shown.pop(0)["content"])
        shown.insert(0, {"role": "system", "content": "\n\n".join(told)})
    return [{"role": message["role"], "content": message["content"]} for message in shown]


def _shown(message: Json) -> tuple[str, str]:
    if message["role"] == "tool":
        return "user", f"<tool_response>\n{message['content']}\n</tool_response>"
    calls = "".join(f"{BEGIN}{one['name']}{BETWEEN}{one['arguments']}{END}" for one in message.get("tool_calls", ()))
    return message["role"], "\n".join(filter(None, (message["content"], calls)))


# what the model wrote

Part = tuple[str, str]
"""("text", text), ("call", a function's name) or ("arguments", a piece of them)."""


class CallReader:
    """Tells calls from text in an answer that comes piece by piece.

    >>> reader = CallReader()
    >>> reader.push('I look.<tool_call>{"name": "f", "argum'), reader.push('ents": {"a": {}')
    ([('text', 'I look.'), ('call', 'f')], [('arguments', '{"a": {}')])
    >>> reader.push('}}</tool_call>'), reader.finish()
    ([('arguments', '}')], [])
    """

    def __init__(self) -> None:
        self._held, self._state = "", "text"
        self._depth, self._in_string, self._is_escaped = 0, False, False

    def push(self, piece: str) -> list[Part]:
        """What is known now."""
        self._held += piece
        parts: list[Part] = []
        while True:
            before = (self._state, len(self._held))
            parts += getattr(self, f"_{self._state}")()
            if before == (self._state, len(self._held)) or not self._held:
                return parts

    def finish(self) -> list[Part]:
        """What was held back, once the answer has ended; the frame of a call that was cut is left out."""
        held, self._held = self._held, ""
        return [("text", held)] if held and self._state == "text" else []

    def _text(self) -> list[Part]:
        place = self._held.find(BEGIN)
        cut = place if place >= 0 else len(self._held) - held_back(self._held, BEGIN)
        text, self._held = self._held[:cut], self._held[cut:]
        if place >= 0:
            self._held, self._state = self._held[len(BEGIN) :], "name"
        return [("text", text)] if text else []

    def _name(self) -> list[Part]:
        name, found, rest = self._held.partition(BETWEEN)
        if not found:
            return []
        self._held, self._state, self._depth = rest, "arguments", 0
        return [("call", name)]

    def _arguments(self) -> list[Part]:
        """Up to the brace that closes them: strings may hold braces, and whatever ends a call."""
        for place, character in enumerate(self._held):
            if self._is_closed_by(character):
                piece, self._held, self._state = self._held[: place + 1], self._held[place + 1 :], "end"
                return [("arguments", piece)]
        piece, self._held = self._held, ""
        return [("arguments", piece)] if piece else []

    def _is_closed_by(self, character: str) -> bool:
        if self._in_string:
            self._in_string = self._is_escaped or character != '"'
            self._is_escaped = character == "\\" and not self._is_escaped
            return False
        self._in_string = character == '"'
        self._depth += (character in "{[") - (character in "}]")
        return self._depth == 0

    def _end(self) -> list[Part]:
        if self._held.startswith(END):
            self._held, self._state = self._held[len(END) :], "text"
        return []


def read_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The text of a whole answer, without its calls, and the calls."""
    reader, said, calls = CallReader(), "", list[ToolCall]()
    for kind, piece in [*reader.push(text), *reader.finish()]:
        if kind == "text":
            said += piece
        elif kind == "call":
            calls.append(ToolCall(piece, ""))
        else:
            calls[-1] = ToolCall(calls[-1].name, calls[-1].arguments + piece)
    return said, tuple(calls)
