"""A prompt in, an answer out: sampling options, chat templates, streaming, and the chunks of memory that were used."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TextStreamer

from ltm.errors import ConfigError, LtmError

if TYPE_CHECKING:
    from ltm.methods import Method
    from ltm.methods.trace import UsedChunk

OnText = Callable[[str], None]
"""Called with each new stretch of text as soon as it is whole."""


@dataclass(frozen=True)
class Sampling:
    """How new tokens are chosen. Raises ConfigError with every problem of the values together."""

    max_new_tokens: int = 128
    """Most tokens of an answer; it ends earlier where the model ends it."""
    temperature: float = 0.0
    """0 takes the likeliest token; 1 samples as the model believes; more is wilder."""
    top_p: float = 1.0
    """When sampling, keep the likeliest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that occurred already get less likely; small models repeat themselves without it."""
    seed: int | None = None
    """Same seed, same answer; None: another one each time."""

    def __post_init__(self) -> None:
        problems = []
        if self.max_new_tokens < 1:
            problems.append(f"max_new_tokens={self.max_new_tokens}; use 1 or more")
        if not 0 <= self.temperature < float("inf"):
            problems.append(f"temperature={self.temperature}; use 0 or more")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p={self.top_p}; use a number above 0, up to 1")
        if not 0 < self.repetition_penalty < float("inf"):
            problems.append(f"repetition_penalty={self.repetition_penalty}; use a number above 0 (1: none)")
        if problems:
            raise ConfigError(problems)

    def arguments(self) -> dict[str, Any]:
        """The same as arguments of transformers' generate()."""
        chosen: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": self.temperature > 0}
        chosen.update(num_beams=1, repetition_penalty=self.repetition_penalty)
        if self.temperature > 0:
            chosen.update(temperature=self.temperature, top_p=self.top_p)
        else:
            chosen.update(temperature=None, top_p=None, top_k=None)
        return chosen


@dataclass(frozen=True)
class Generated:
    """token_ids: what was generated, without the end token; used: chunks of memory by use (empty without trace), with
    weights averaged over the tokens; used_by_token: the same for each token of token_ids; ended: the model ended it;
    seconds: prompt and generation together."""

    text: str
    token_ids: list[int]
    used: list[UsedChunk]
    used_by_token: list[list[UsedChunk]]
    prompt_tokens: int
    ended: bool
    seconds: float


class CallbackStreamer(TextStreamer):
    """Gives text to a function instead of printing it."""

    def __init__(self, tokenizer: Any, on_text: OnText):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.on_text(text)


def question_ids(tokenizer: Any, question: str, history: Sequence[dict[str, str]] = ()) -> Tensor:
    """A question as the model wants it, int64 [1, tokens]: after earlier turns in its chat template if it has one,
    else plain and alone."""
    if not question.strip():
        raise LtmError("the question is empty; ask something")
    if not getattr(tokenizer, "chat_template", None):
        return plain_ids(tokenizer, question)
    messages = [*history, {"role": "user", "content": question}]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    return encoded["input_ids"]


def plain_ids(tokenizer: Any, text: str) -> Tensor:
    """A text to be gone on with, int64 [1, tokens], with the special tokens that the tokenizer begins texts with."""
    ids = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
    if ids.numel() == 0:
        raise LtmError("the text is empty; give at least one word to go on from")
    return ids.long()


def generate(
    method: Method,
    tokenizer: Any,
    input_ids: Tensor,
    sampling: Sampling,
    *,
    trace: bool = False,
    on_text: OnText | None = None,
) -> Generated:
    """Generate after a prompt, int64 [1, tokens]; on_text gets the text as it comes; trace notes what memory gave."""
    arguments, started = sampling.arguments(), time.perf_counter()
    ends = _end_tokens(method, tokenizer)
    arguments.update(eos_token_id=ends or None, pad_token_id=_pad_token(tokenizer, ends))
    if on_text is not None:
        arguments["streamer"] = CallbackStreamer(tokenizer, on_text)
    with torch.random.fork_rng(enabled=sampling.seed is not None):
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        output, used, by_token = _run(method, input_ids.to(method.device), arguments, trace)
    new = output[0, input_ids.shape[1] :].tolist()
    seconds, ended = time.perf_counter() - started, bool(new) and new[-1] in ends
    new = new[:-1] if ended else new
    text = tokenizer.decode(new, skip_special_tokens=True)
    return Generated(text, new, used, by_token[: len(new)], input_ids.shape[1], ended, seconds)


def _run(
    method: Method, ids: Tensor, arguments: dict[str, Any], trace: bool
) -> tuple[Tensor, list[UsedChunk], list[list[UsedChunk]]]:
    mask = torch.ones_like(ids)
    if not trace:
        return method.generate(input_ids=ids, attention_mask=mask, **arguments), [], []
    with method.trace() as traced:
        output = method.generate(input_ids=ids, attention_mask=mask, **arguments)
    scored = output.shape[1] - ids.shape[1]  # each new token was chosen by one scored token before it
    if method.bank is None:
        return output, [], []
    used = traced.total(0, last=scored, bank=method.bank)
    mean = [type(chunk)(chunk.row, chunk.slot, chunk.weight / max(scored, 1)) for chunk in used]
    return output, mean, traced.tokens(0, method.bank)[-scored:]


def _end_tokens(method: Method, tokenizer: Any) -> list[int]:
    """Every token that ends an answer, of the model's generation config and of the tokenizer."""
    known = method.generation_config.eos_token_id
    ends = known if isinstance(known, list) else [known]
    return sorted({end for end in [*ends, tokenizer.eos_token_id] if end is not None})


def _pad_token(tokenizer: Any, ends: list[int]) -> int:
    if tokenizer.pad_token_id is not None:
        return tokenizer.pad_token_id
    return ends[0] if ends else 0
