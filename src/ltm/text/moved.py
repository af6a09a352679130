"""What a passage in the window did to an answer: how much likelier it made each word.

Attention inside a window says little about what an answer hangs on. A passage is taken out and the same answer scored
again: where the log-probability of a word falls, the passage moved it (leave-one-out; Cohen-Wang et al., 2024,
arXiv:2409.00729, fit a linear model over many such removals instead, which few passages do not need).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltm.data.passages import Passage
from ltm.streams.open_stream import OpenStream

LEAST_NATS = 0.5
"""A word that got so much likelier counts as moved."""


@dataclass(frozen=True)
class Moved:
    """A passage of the window; nats: how much likelier it made the whole answer; words: those of the answer that it
    made likelier by LEAST_NATS or more, in order; tokens: the numbers of the answer's tokens that these are."""

    passage: Passage
    nats: float
    words: list[str]
    tokens: list[int]


def words_moved(
    prompts: Sequence[Tensor],
    answer: Sequence[int],
    words: Sequence[str],
    shown: Sequence[Passage],
    begin: Callable[[Tensor], OpenStream],
) -> list[Moved]:
    """What each passage did, most first.

    prompts: int64 [1, tokens] with all passages, then without each of them. answer: its tokens; words: the same as
    text. begin: a stream that has some or none of a prompt's first tokens. An empty answer was moved by nothing.
    """
    if not answer or not shown:
        return []
    whole, *without = [_log_probabilities(begin(prompt), prompt, answer) for prompt in prompts]
    found = []
    for passage, own in zip(shown, without, strict=True):
        gains = whole - own
        tokens = [number for number, gain in enumerate(gains.tolist()) if gain >= LEAST_NATS]
        moved = [words[number].strip() for number in tokens]
        found.append(Moved(passage, float(gains.sum()), [word for word in moved if word], tokens))
    return sorted(found, key=lambda one: -one.nats)


@torch.no_grad()
def _log_probabilities(stream: OpenStream, prompt: Tensor, answer: Sequence[int]) -> Tensor:
    """Of each token of an answer after a prompt, with whose beginning the stream stands, float64 [tokens]."""
    ids = torch.cat((prompt[0], torch.tensor(answer)))[None]
    logits = stream.push(ids[:, stream.num_tokens : -1], keep=len(answer))[0].float()  # [answer, vocab]
    scores = logits.log_softmax(dim=-1).gather(-1, torch.tensor(answer, device=logits.device)[:, None])
    return scores[:, 0].double().cpu()
