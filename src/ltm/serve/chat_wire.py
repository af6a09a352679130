"""Chat completions as they go over the wire: whole, and as the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ltm.serve.engine import ChatReply, Choice
from ltm.serve.token_options import TokenBytes, told_scores
from ltm.serve.tools import ToolCall
from ltm.text.token_rules import TokenScore


@dataclass(frozen=True)
class ChatWire:
    """One response; model: as the request named it; user: whose memory it had, None for none; fingerprint: of what
    answers, so that equal seeds can be compared; token_bytes: what a token says; has_calls: functions may be called in
    it; has_scores: log-probabilities are told."""

    model: str
    user: str | None
    fingerprint: str
    token_bytes: TokenBytes
    has_calls: bool = False
    has_scores: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, reply: ChatReply) -> dict[str, Any]:
        """The object `chat.completion`."""
        return {
            **self._frame("chat.completion"),
            "choices": [self._choice(number, choice) for number, choice in enumerate(reply.choices)],
            "usage": usage(reply),
            "memory": self.memory(reply),
        }

    def first(self, choice: int) -> dict[str, Any]:
        """The chunk that begins a choice."""
        content = None if self.has_calls else ""
        return self._chunk([_delta(choice, {"role": "assistant", "content": content, "refusal": None})])

    def piece(self, choice: int, text: str) -> dict[str, Any]:
        return self._chunk([_delta(choice, {"content": text})])

    def call(self, choice: int, number: int, name: str) -> dict[str, Any]:
        """The chunk that begins the call of a function, the choice's so many-th."""
        return self._chunk([_delta(choice, {"tool_calls": [{"index": number, **_call(ToolCall(name, ""))}]})])

    def arguments(self, choice: int, number: int, piece: str) -> dict[str, Any]:
        """A piece of the arguments of a call."""
        return self._chunk([_delta(choice, {"tool_calls": [{"index": number, "function": {"arguments": piece}}]})])

    def scored(self, chunk: dict[str, Any], scores: Sequence[TokenScore]) -> dict[str, Any]:
        """A chunk with log-probabilities of tokens."""
        (choice,) = chunk["choices"]
        told = {"content": told_scores(scores, self.token_bytes), "refusal": None}
        return {**chunk, "choices": [{**choice, "logprobs": told}]}

    def last(self, number: int, choice: Choice, reply: ChatReply, *, with_memory: bool) -> dict[str, Any]:
        """The chunk that ends a choice; with_memory: no chunk with usage comes after it."""
        chunk = self._chunk([_delta(number, {}, choice.reason)])
        return {**chunk, "memory": self.memory(reply)} if with_memory else chunk

    def with_usage(self, reply: ChatReply) -> dict[str, Any]:
        """The last chunk, which has no choice."""
        return {**self._chunk([]), "usage": usage(reply), "memory": self.memory(reply)}

    def memory(self, reply: ChatReply) -> dict[str, Any]:
        return memory_told(self.user, reply)

    def _choice(self, number: int, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message |= {"content": choice.text or None, "tool_calls": [_call(call) for call in choice.calls]}
        told = {"content": told_scores(choice.scores, self.token_bytes), "refusal": None} if self.has_scores else None
        return {"index": number, "message": message, "finish_reason": choice.reason, "logprobs": told}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._frame("chat.completion.chunk"), "choices": choices}

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def memory_told(user: str | None, reply: ChatReply) -> dict[str, Any]:
    """What memory did; `user` is null where there was none."""
    return {
        "user": user,
        "used": reply.used,
        "written": reply.written,
        "tokens_remembered": reply.remembered,
        "ms": round(reply.memory_ms, 2),
    }


def usage(reply: ChatReply) -> dict[str, Any]:
    """Tokens; cached: those of the prompt that were not computed again. What lies in a memory is in no prompt, so it
    counts nowhere here."""
    made = sum(choice.num_tokens for choice in reply.choices)
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": made,
        "total_tokens": reply.prompt_tokens + made,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _delta(number: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": number, "delta": delta, "finish_reason": reason, "logprobs": None}
