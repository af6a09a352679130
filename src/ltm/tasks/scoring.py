"""Answers to many prompts: how likely given continuations are, and what the method would write, in batches.

Prompts of one unit mostly begin alike (the same demonstrations, then another question). What all of them share is run
once, its stream is repeated over the rows of each batch, and only the rest is run row by row. Rows are padded at
their start and prompts of like length go together, so that the rows of a batch end at the same column (logits of one
column and not of all that lengths differ by, which a large vocabulary makes the dearest part), fill their window at the
same column, and a full window is encoded anew once and not once a row. All prompts use memory row 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ltm.data.tokens import literal_ids
from ltm.errors import LtmError
from ltm.memory import LEFT_OUT, LeftOut, Memory

if TYPE_CHECKING:
    from ltm.methods import Reader
    from ltm.streams.open_stream import OpenStream

Tokens = Sequence[int]
"""Token ids of one text."""

BATCH_SIZE = 32
"""Most prompts in one forward."""
CACHE_BYTES = 2**30
"""Keys and values of the windows of one batch: fewer prompts go together where each has a long past."""


@dataclass(frozen=True)
class PromptScore:
    """next_token: the likeliest token after the prompt; log_likelihoods: nats of each continuation, summed over its
    tokens."""

    next_token: int
    log_likelihoods: list[float]

    @property
    def best(self) -> int:
        """The likeliest continuation; the first of several."""
        return self.log_likelihoods.index(max(self.log_likelihoods))


class _Batch(NamedTuple):
    """rows: which texts; stream: after them; logits: of each its last tokens, float32 [needed, vocab]."""

    rows: list[int]
    stream: OpenStream
    logits: list[Tensor]


@torch.no_grad()
def score_continuations(
    method: Reader,
    prompts: Sequence[Tokens],
    continuations: Sequence[Sequence[Tokens]],
    *,
    batch_size: int = BATCH_SIZE,
    memory: Memory | LeftOut | None = LEFT_OUT,
) -> list[PromptScore]:
    """How likely each continuation is after its prompt, given what the method, or a memory, has read in row 0.

    prompts: one token or more each; continuations: those of each prompt, one token or more each. A prompt whose
    continuations differ in their last token only takes one row of a batch. Raises LtmError for empty ones.

    >>> score_continuations(method, [prompt], [[yes, no]])[0].best  # doctest: +SKIP
    0
    """
    _check(prompts, continuations)
    stems = [_stems(candidates) for candidates in continuations]
    owners = [(prompt, stem) for prompt, own in enumerate(stems) for stem in own]
    texts = [[*prompts[prompt], *stem] for prompt, stem in owners]
    needed = [len(stem) + 1 for _, stem in owners]
    next_tokens = [0] * len(prompts)
    scores = [[0.0] * len(candidates) for candidates in continuations]
    for batch in _batches(method, texts, needed, batch_size, memory):
        for row, logits in zip(batch.rows, batch.logits, strict=True):
            prompt, stem = owners[row]
            next_tokens[prompt] = int(logits[0].argmax())
            log_probabilities = logits.log_softmax(dim=-1)  # [stem + 1, vocab]
            for index, candidate in enumerate(continuations[prompt]):
                if tuple(candidate[:-1]) == stem[: len(candidate) - 1]:
                    scores[prompt][index] = _sum_of(log_probabilities, candidate)
    return [PromptScore(token, own) for token, own in zip(next_tokens, scores, strict=True)]


@torch.no_grad()
def greedy_tokens(
    method: Reader,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    *,
    stop: Collection[int] = (),
    not_first: Sequence[int] = (),
    batch_size: int = BATCH_SIZE,
    memory: Memory | LeftOut | None = LEFT_OUT,
) -> list[list[int]]:
    """What the method writes after each prompt when it always takes the likeliest token, given memory row 0.

    stop: tokens that end an answer (kept as its last); not_first: tokens that none begins with. The same
    tokens as generate() gives one prompt at a time.
    """
    _check(prompts, [])
    answers: list[list[int]] = [[] for _ in prompts]
    for batch in _batches(method, prompts, [1] * len(prompts), batch_size, memory):
        written = _decode(batch, max_new_tokens, stop, not_first)
        for row, tokens in zip(batch.rows, written, strict=True):
            answers[row] = tokens
    return answers


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, without special tokens."""
    return literal_ids(tokenizer, text)


def start_tokens(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before every text: its begin token, or nothing."""
    begin, ids = tokenizer.bos_token_id, list(tokenizer("", verbose=False)["input_ids"])
    return [begin] if begin is not None and ids[:1] == [begin] else []


def shared_length(texts: Sequence[Tokens]) -> int:
    """How many leading tokens all texts have in common."""
    first, last = min(texts, key=list), max(texts, key=list)  # all others lie between them
    for place, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return place
    return min(len(first), len(last))


def _check(prompts: Sequence[Tokens], continuations: Sequence[Sequence[Tokens]]) -> None:
    if not all(map(len, prompts)):
        raise LtmError("a prompt is empty; give each at least one token")
    if not all(len(candidate) for candidates in continuations for candidate in candidates):
        raise LtmError("a continuation is empty; give each at least one token")


def _stems(continuations: Sequence[Tokens]) -> list[tuple[int, ...]]:
    """The fewest runs of tokens such that every continuation without its last token begins one of them."""
    stems = sorted({tuple(candidate[:-1]) for candidate in continuations})
    followers = [*stems[1:], None]  # in this order, what begins another begins the next
    return [s for s, after in zip(stems, followers, strict=True) if after is None or after[: len(s)] != s]


def _sum_of(log_probabilities: Tensor, candidate: Tokens) -> float:
    """Nats of a continuation from log probabilities [tokens or more, vocab] that start at its first token."""
    chosen = log_probabilities[range(len(candidate)), list(candidate)]
    return float(chosen.double().sum())


def _batches(
    method: Reader,
    texts: Sequence[Tokens],
    needed: Sequence[int],
    batch_size: int,
    memory: Memory | LeftOut | None,
) -> Iterator[_Batch]:
    """Run texts, each as a stream of its own; of text i the logits of its last needed[i] tokens are wanted."""
    if not texts:
        return
    shared = min(shared_length(texts), *(len(text) - wanted for text, wanted in zip(texts, needed, strict=True)))
    prefix = method.stream(memory)
    if shared:
        prefix.push(torch.tensor([list(texts[0][:shared])]), keep=1)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    start, size = 0, _rows_that_fit(prefix.nbytes, batch_size) if shared else 1
    while start < len(order):
        rows = order[start : start + size]
        stream = prefix.fork([0] * len(rows))
        rest = [texts[row][shared:] for row in rows]
        yield _Batch(rows, stream, _last_logits(stream, rest, [needed[row] for row in rows]))
        start, size = start + size, _rows_that_fit(stream.nbytes // len(rows), batch_size)


def _rows_that_fit(bytes_each: int, batch_size: int) -> int:
    """Rows of a batch whose keys and values stay within CACHE_BYTES; one at least."""
    return max(1, min(batch_size, CACHE_BYTES // max(bytes_each, 1)))


def _last_logits(stream: OpenStream, texts: Sequence[Tokens], needed: Sequence[int]) -> list[Tensor]:
    """Go on with a batch of streams; of each row float32 logits [needed, vocab] of its last tokens."""
    longest, most = max(map(len, texts)), max(needed)
    ids = torch.tensor([[*[0] * (longest - len(text)), *text] for text in texts])
    mask = torch.arange(longest)[None] >= torch.tensor([[longest - len(text)] for text in texts])
    logits = stream.push(ids, mask, keep=most)  # [batch, most, vocab]
    return [logits[row, most - wanted :].float() for row, wanted in enumerate(needed)]


def _decode(batch: _Batch, max_new_tokens: int, stop: Collection[int], not_first: Sequence[int]) -> list[list[int]]:
    """Greedy tokens of each row of a batch; a row that is done runs along until all are."""
    written: list[list[int]] = [[] for _ in batch.rows]
    running = set(range(len(batch.rows)))
    logits = torch.stack([row[-1] for row in batch.logits])  # [batch, vocab]
    logits[:, list(not_first)] = -torch.inf
    for step in range(max_new_tokens):
        tokens = logits.argmax(dim=-1)  # [batch]
        for row in running:
            written[row].append(int(tokens[row]))
        running = {row for row in running if written[row][-1] not in stop}
        if not running or step == max_new_tokens - 1:
            break
        logits = batch.stream.push(tokens[:, None], keep=1)[:, -1]
    return written
