"""Any of our backbones as a writer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ltm.errors import LtmError
from ltm.notes.writer import Messages, OnText, Usage, WriterError, merged
from ltm.tasks.scoring import score_continuations, text_tokens
from ltm.text.generation import Sampling, generate, plain_ids, question_ids
from ltm.text.token_rules import TokenRule

if TYPE_CHECKING:
    from torch import Tensor

    from ltm.methods.reader import Reader


class BackboneWriter:
    """A method without memory of its own, such as `full`, that writes and scores; greedy unless asked otherwise.

    A schema is not forced: small models are better asked by `score`. A repetition penalty counts what was written and
    not the prompt: an answer from recalled text repeats it.

    >>> BackboneWriter(create_method("full", load_backbone("smollm2-135m"))).write(messages)  # doctest: +SKIP
    """

    def __init__(self, method: Reader):
        self.method, self.tokenizer = method, method.backbone.tokenizer
        self.name, self.usage = method.backbone.name, Usage()
        if self.tokenizer is None:
            raise LtmError(f"backbone {self.name} has no tokenizer, so it writes no text; load one with a tokenizer")

    @property
    def window(self) -> int | None:
        """Most tokens of a prompt and its answer together; None: no limit."""
        return self.method.max_stream_tokens

    def write(
        self,
        messages: Messages,
        schema: dict[str, Any] | None = None,
        max_tokens: int = 256,
        *,
        on_text: OnText | None = None,
        rules: Sequence[TokenRule] = (),
        **sampling: Any,
    ) -> str:
        chosen = Sampling(max_new_tokens=max_tokens, **sampling)
        ids = self._ids(messages)
        self._check_room(ids.shape[1] + max_tokens)
        made = generate(self.method, self.tokenizer, ids, chosen, on_text=on_text, penalize_prompt=False, rules=rules)
        self.usage.add(made.prompt_tokens, len(made.token_ids))
        return made.text

    def score(self, prompt: str | Messages, choices: Sequence[str]) -> list[float]:
        before = plain_ids(self.tokenizer, prompt) if isinstance(prompt, str) else self._ids(prompt)
        after = [text_tokens(self.tokenizer, choice) for choice in choices]
        if not after or not all(after):
            raise LtmError("a choice is empty; give each at least one word")
        self._check_room(before.shape[1] + max(map(len, after)))
        (scored,) = score_continuations(self.method, [before[0].tolist()], [after])
        self.usage.add(before.shape[1], sum(map(len, after)))
        return scored.log_likelihoods

    def _ids(self, messages: Messages) -> Tensor:
        """The prompt in the model's chat template, int64 [1, tokens]."""
        *history, last = merged(messages)
        return question_ids(self.tokenizer, last["content"], history)

    def _check_room(self, tokens: int) -> None:
        limit = self.window
        if limit is not None and tokens > limit:
            raise WriterError(
                f"prompt and answer take {tokens:,} tokens, {self.name} has positions for {limit:,}; recall less, or "
                "take a backbone with more positions"
            )
