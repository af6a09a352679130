"""A prompt in, an answer out: sampling options, chat templates, streaming, and the chunks of memory that were used."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    TextStreamer,
)

from ltm.data.control import ControlTokens, part_control_tokens
from ltm.data.tokens import literal_ids
from ltm.errors import ConfigError, LtmError
from ltm.memory import LEFT_OUT, LeftOut, Memory
from ltm.text.plain import has_template
from ltm.text.token_rules import RuledEnd, RuledScores, TokenRule

if TYPE_CHECKING:
    from ltm.methods import Reader
    from ltm.methods.trace import UsedChunk
    from ltm.streams import Stream

OnText = Callable[[str], None]
"""Called at each new token with the text that it made whole, "" where it made none; may raise EndOfAnswer."""


class EndOfAnswer(Exception):
    """Raised by whoever gets an answer's text as it comes: what it has is enough, no more tokens are to be made."""


MOST_NEW_TOKENS = 1_000_000
LEAST_FACTOR = 1e-4
"""Scores divided by less, or multiplied by more than its inverse, leave the range of numbers."""
MOST_SEED = 2**63 - 1


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
        if not 1 <= self.max_new_tokens <= MOST_NEW_TOKENS:
            problems.append(f"max_new_tokens={self.max_new_tokens}; use 1 to {MOST_NEW_TOKENS:,}")
        if self.temperature != 0 and not LEAST_FACTOR <= self.temperature <= 1 / LEAST_FACTOR:
            problems.append(f"temperature={self.temperature}; use 0, or {LEAST_FACTOR} to {1 / LEAST_FACTOR:,.0f}")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p={self.top_p}; use a number above 0, up to 1")
        if not LEAST_FACTOR <= self.repetition_penalty <= 1 / LEAST_FACTOR:
            known = f"use {LEAST_FACTOR} to {1 / LEAST_FACTOR:,.0f} (1: none)"
            problems.append(f"repetition_penalty={self.repetition_penalty}; {known}")
        if self.seed is not None and not 0 <= self.seed <= MOST_SEED:
            problems.append(f"seed={self.seed}; use 0 to {MOST_SEED:,}")
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
    """Gives text to a function instead of printing it, token by token, until that has enough.

    It is a stopping criterion of generate() and not its `streamer`, which newer versions of transformers call only
    after they have decided whether to go on.
    """

    def __init__(self, tokenizer: Any, on_text: OnText, ends: Sequence[int] = ()):
        super().__init__(tokenizer, skip_special_tokens=True)
        self.on_text, self.ends, self.has_enough = on_text, set(ends), False

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Whether it has enough, bool [rows], with the newest token, of input_ids [1, tokens]."""
        if int(input_ids[0, -1]) not in self.ends:  # what ends an answer is no part of it
            self.put(input_ids[:, -1].cpu())
        return torch.full((input_ids.shape[0],), self.has_enough, device=input_ids.device)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if self.has_enough or (stream_end and not text):
            return
        try:
            self.on_text(text)
        except EndOfAnswer:
            self.has_enough = True


Turn = Mapping[str, str]
"""One turn of a conversation: {"role": "user", "assistant" or "system", "content": what was said}."""


def question_ids(tokenizer: Any, question: str, history: Sequence[Turn] = ()) -> Tensor:
    """A question after earlier turns, int64 [1, tokens]: in the model's chat template, or joined by line ends where it
    has none. What a turn says is literal: it ends or begins no turn, whatever control tokens it spells out."""
    if not question.strip():
        raise LtmError("the question is empty; ask something")
    turns = [*map(checked_turn, history), {"role": "user", "content": question}]
    if not has_template(tokenizer):
        return plain_ids(tokenizer, "\n".join(turn["content"] for turn in turns))
    try:
        return _templated(tokenizer, turns)
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise LtmError(
            f"the model's chat template refuses these turns ({' '.join(_roles(turns))}): {words}; give other turns, or "
            "another chat_template to the tokenizer"
        ) from error


def checked_turn(turn: Any) -> dict[str, Any]:
    """A turn of a conversation as it came. Raises LtmError for anything else."""
    if isinstance(turn, Mapping) and all(isinstance(turn.get(name), str) for name in ("role", "content")):
        return dict(turn)
    raise LtmError(f'{str(turn)[:80]} is no turn of a conversation; give {{"role": "user", "content": "..."}}')


def _roles(turns: Sequence[Turn]) -> list[str]:
    return [turn["role"] for turn in turns]


def _templated(tokenizer: Any, turns: Sequence[Turn]) -> Tensor:
    """Turns in the chat template. Where they spell control tokens out, a mark that they do not hold is put inside each
    of these and taken out of what the template made, in pieces that none of them spans."""
    control = ControlTokens.of(tokenizer)
    mark = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in str(turns))
    marked = part_control_tokens(turns, control, mark)
    if marked == turns:
        encoded = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        return encoded["input_ids"]
    text = tokenizer.apply_chat_template(marked, add_generation_prompt=True, tokenize=False)
    pieces = [tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"] for piece in text.split(mark)]
    return torch.tensor([sum(pieces, [])], dtype=torch.long)


def plain_ids(tokenizer: Any, text: str) -> Tensor:
    """A text to be gone on with, literally, int64 [1, tokens], with the special tokens that the tokenizer begins texts
    with."""
    framed = tokenizer(text, verbose=False)["input_ids"]
    bare = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if not framed:
        raise LtmError("the text is empty; give at least one word to go on from")
    start = next((n for n in range(len(framed)) if framed[n : n + len(bare)] == bare), 0)
    ids = [*framed[:start], *literal_ids(tokenizer, text), *framed[start + len(bare) :]]
    return torch.tensor([ids], dtype=torch.long)


def generate(
    method: Reader,
    tokenizer: Any,
    input_ids: Tensor,
    sampling: Sampling,
    *,
    memory: Memory | LeftOut | None = LEFT_OUT,
    trace: bool = False,
    on_text: OnText | None = None,
    penalize_prompt: bool = True,
    cache: Stream | None = None,
    line_ends: Sequence[int] = (),
    rules: Sequence[TokenRule] = (),
) -> Generated:
    """Generate after a prompt, int64 [1, tokens], with a memory (left out: the method's own); on_text gets the text as
    it comes; trace notes what memory gave. penalize_prompt: the repetition penalty counts the prompt's tokens, too;
    False where the prompt is what an answer is to be taken from. cache: a stream that has the prompt's beginning.
    line_ends: tokens that end an answer, too, and begin none. rules: what has a say in each token, in this order."""
    arguments, started = {**sampling.arguments(), "memory": memory}, time.perf_counter()
    processors: list[LogitsProcessor] = [RuledScores(rules)] if rules else []
    if not penalize_prompt:
        own = RepetitionPenaltyLogitsProcessor(arguments.pop("repetition_penalty"), input_ids.shape[1])
        processors.insert(0, own)
    if processors:
        arguments["logits_processor"] = LogitsProcessorList(processors)
    if cache is not None:
        arguments["cache"] = cache
    ends = [*end_tokens(method, tokenizer), *line_ends]
    if line_ends:
        arguments["begin_suppress_tokens"] = list(line_ends)
    arguments.update(eos_token_id=ends or None, pad_token_id=_pad_token(tokenizer, ends))
    ruled = RuledEnd(rules, ends)  # before the streamer: whoever hears of a token finds it noted
    stopping: list[Any] = [ruled] if rules else []
    if on_text is not None:
        streamer = CallbackStreamer(tokenizer, on_text, line_ends)
        stopping.append(streamer)
    if stopping:
        arguments["stopping_criteria"] = StoppingCriteriaList(stopping)
    with torch.random.fork_rng(enabled=sampling.seed is not None):
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        output, used, by_token = _run(method, input_ids.to(method.device), arguments, trace)
    if on_text is not None:
        streamer.end()
    new = output[0, input_ids.shape[1] :].tolist()
    seconds, has_end = time.perf_counter() - started, bool(new) and new[-1] in ends
    new, ended = new[:-1] if has_end else new, has_end or ruled.is_whole
    text = tokenizer.decode(new, skip_special_tokens=True)
    return Generated(text, new, used, by_token[: len(new)], input_ids.shape[1], ended, seconds)


def _run(
    method: Reader, ids: Tensor, arguments: dict[str, Any], trace: bool
) -> tuple[Tensor, list[UsedChunk], list[list[UsedChunk]]]:
    mask = torch.ones_like(ids)
    if not trace:
        return method.generate(input_ids=ids, attention_mask=mask, **arguments), [], []
    with method.trace() as traced:
        output = method.generate(input_ids=ids, attention_mask=mask, **arguments)
    scored = output.shape[1] - ids.shape[1]  # each new token was chosen by one scored token before it
    given = arguments["memory"]
    bank = method.bank if isinstance(given, LeftOut) else None if given is None else given.bank
    if bank is None:
        return output, [], []
    used = traced.total(0, last=scored, bank=bank)
    mean = [type(chunk)(chunk.row, chunk.slot, chunk.weight / max(scored, 1)) for chunk in used]
    return output, mean, traced.tokens(0, bank)[-scored:]


def end_tokens(method: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer, of a method's or model's generation config and of the tokenizer."""
    known = method.generation_config.eos_token_id
    ends = known if isinstance(known, list) else [known]
    return sorted({end for end in [*ends, tokenizer.eos_token_id] if end is not None})


def _pad_token(tokenizer: Any, ends: list[int]) -> int:
    if tokenizer.pad_token_id is not None:
        return tokenizer.pad_token_id
    return ends[0] if ends else 0
