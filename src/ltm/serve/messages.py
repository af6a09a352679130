"""Messages of a conversation as clients send them, checked and made plain."""

from __future__ import annotations

from typing import Any

from ltm.serve.errors import invalid, unsupported

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def plain_message(message: dict[str, Any], place: str) -> dict[str, Any]:
    """Role and text of a message; of an assistant's with `tool_calls`, each with id, name and arguments; of a tool's
    with `tool_call_id`. Raises ApiError 400 with the field that cannot be."""
    role = message.get("role")
    if role == "function" or message.get("function_call"):
        raise unsupported("functions are", f"{place}.{'role' if role == 'function' else 'function_call'}")
    if not isinstance(role, str) or role not in ROLES:
        raise invalid(f"{place} has no role of {', '.join(ROLES)}", f"{place}.role")
    plain: dict[str, Any] = {"role": ROLES[role], "content": _content(message.get("content"), role, place)}
    if role == "tool":
        plain["tool_call_id"] = _text(message.get("tool_call_id"), f"{place}.tool_call_id")
    if role == "assistant" and message.get("tool_calls"):
        plain["tool_calls"] = _calls(message["tool_calls"], f"{place}.tool_calls")
    return {**plain, "recalled": True} if message.get("recalled") is True else plain


def check_last(messages: list[dict[str, Any]], param: str) -> None:
    """Raise ApiError 400 where nobody waits for an answer."""
    if messages[-1]["role"] not in ("user", "tool"):
        raise invalid("the last message is neither a user's nor a tool's; end with the question", param)


def well_formed(text: str, place: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise invalid(f"{place} holds half a character; give well-formed Unicode", place)
    return text


def _content(content: Any, role: str, place: str) -> str:
    if isinstance(content, list):
        content = "".join(_part(part, f"{place}.content.{n}") for n, part in enumerate(content))
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise invalid(f"{place}.content is no text; give a text, or parts of type text", f"{place}.content")
    return well_formed(content, f"{place}.content")


def _part(part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise unsupported(f"content of type {str(kind)[:40]} is", place, "unsupported_content")
    if not isinstance(part.get("text"), str):
        raise invalid(f"{place}.text is no text", place)
    return part["text"]


def _calls(given: Any, place: str) -> list[dict[str, str]]:
    if not isinstance(given, list):
        raise invalid(f"{place} is no list of calls", place)
    return [_call(one, f"{place}.{number}") for number, one in enumerate(given)]


def _call(given: Any, place: str) -> dict[str, str]:
    kind = given.get("type", "function") if isinstance(given, dict) else None
    if kind != "function":
        raise unsupported(f"a call of type {str(kind)[:40]} is", place)
    function = given.get("function")
    told = function if isinstance(function, dict) else {}
    named = {"id": given.get("id"), "name": told.get("name"), "arguments": told.get("arguments")}
    return {name: _text(value, f"{place}.{name}") for name, value in named.items()}


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"{place} is no text", place)
    return well_formed(value, place)
