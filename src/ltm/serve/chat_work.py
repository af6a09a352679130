"""What the engine is to do for a request: whose memory it may use, and how it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm.serve.answer_format import AnswerFormat
from ltm.serve.chat_request import ParsedChat
from ltm.serve.engine import ChatWork
from ltm.serve.errors import ApiError, invalid
from ltm.serve.identity import Caller
from ltm.serve.keys import ApiKey

if TYPE_CHECKING:
    from ltm.serve.app import Server


def work_of(server: Server, key: ApiKey, caller: Caller, parsed: ParsedChat) -> ChatWork:
    """What the engine is to do. Raises ApiError: 403 where a key may not use memory as the request says it should, 404
    for a model that is not served."""
    body, model = parsed.body, server.model
    has_memory = server.has_memory(body.model) and caller.user is not None
    asked = body.memory
    if asked is not None and asked.method not in (None, model.memory):
        raise invalid(f"memory.method={asked.method[:40]!r}: this server's is {model.memory}", "memory.method")
    uses = {}
    for name, scope in (("read", "memory:read"), ("write", "memory:write")):
        said = asked is not None and name in asked.model_fields_set
        wanted = asked is None or getattr(asked, name)
        if said and wanted and not key.may(scope):
            raise ApiError(403, f"this key has no scope {scope}", "memory_forbidden", f"memory.{name}")
        uses[name] = has_memory and wanted and key.may(scope)
    return ChatWork(
        caller,
        parsed.messages,
        uses["read"],
        uses["write"],
        _options(server, parsed),
        body.n or 1,
        body.stops,
        format=parsed.format,
        tokens=parsed.tokens,
    )


def _options(server: Server, parsed: ParsedChat) -> dict[str, Any]:
    """Options of `Asking` and `Sampling`."""
    body, settings = parsed.body, server.settings
    most = body.max_completion_tokens or body.max_tokens or settings.max_tokens
    options: dict[str, Any] = {"max_new_tokens": min(most, settings.most_tokens)}
    last = parsed.messages[-1]
    if parsed.format != AnswerFormat() or last["role"] != "user" or not last["content"].rstrip().endswith("?"):
        options["instruction"] = ""  # the usual one asks for a short answer, where passages are shown
    given = {"temperature": body.temperature, "top_p": body.top_p, "repetition_penalty": body.repetition_penalty}
    options |= {name: value for name, value in given.items() if value is not None}
    if body.seed is not None:
        options["seed"] = body.seed % 2**63
    if body.memory is not None and body.memory.k is not None:
        if server.model.memory == "text":
            raise invalid("memory.k has no effect on memory of text; leave it out", "memory.k")
        options["num_passages"] = body.memory.k
    return options
