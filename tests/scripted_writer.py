"""A writer that says what a test told it to, and keeps what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ltm.notes.writer import Messages, OnText, Usage, WriterError, merged


class ScriptedWriter:
    """answer: a text, several in turn (the last again and again), or a function of the messages; None: it fails."""

    name = "script"

    def __init__(self, answer: str | Sequence[str] | Callable[[Messages], str] | None = "yes"):
        self.answer, self.usage = answer, Usage()
        self.prompts: list[Messages] = []

    def write(
        self,
        messages: Messages,
        schema: dict[str, Any] | None = None,
        max_tokens: int = 256,
        *,
        on_text: OnText | None = None,
        **sampling: Any,
    ) -> str:
        self.prompts.append([dict(message) for message in messages])
        text = self._text(messages)
        self.usage.add(sum(len(own["content"].split()) for own in merged(messages)), len(text.split()))
        if on_text is not None:
            on_text(text)
        return text

    def score(self, prompt: str | Messages, choices: Sequence[str]) -> list[float]:
        """The longer a choice, the less likely."""
        return [-float(len(choice)) for choice in choices]

    @property
    def seen(self) -> str:
        """All prompts as one text."""
        return "\n".join(message["content"] for prompt in self.prompts for message in prompt)

    def _text(self, messages: Messages) -> str:
        if self.answer is None:
            raise WriterError("writer script did not answer; is it running?")
        if isinstance(self.answer, str):
            return self.answer
        if callable(self.answer):
            return self.answer(messages)
        return self.answer[min(len(self.prompts), len(self.answer)) - 1]
