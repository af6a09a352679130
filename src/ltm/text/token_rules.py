"""Token rules: what has a say in which token comes next of one answer, on the distribution that is drawn from.

A rule sees the scores as the method made them, memory mixed in (LongMem's pointer, too), one row of the vocabulary at a
time; so it holds whatever decodes: transformers' generate() here, or a batch with a list of rules for each row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria


class TokenRule:
    """A rule of one answer; it is asked for the next token's scores, and told the token that was chosen."""

    def shape(self, scores: Tensor) -> Tensor:
        """Scores of the next token, float [vocab], as this rule wants them; -inf for what must not come."""
        return scores

    def take(self, token: int) -> bool:
        """Note the chosen token (none that ends an answer); whether the answer is whole with it."""
        return False


class Penalties(TokenRule):
    """OpenAI's presence and frequency penalties, of the tokens of the answer, and a bias for single tokens: what is
    taken off, or added to, a token's score.

    >>> rule = Penalties(presence=0.5, frequency=0.25); rule.take(1), rule.take(1)
    (False, False)
    >>> rule.shape(torch.zeros(3))
    tensor([ 0., -1.,  0.])
    """

    def __init__(self, presence: float = 0.0, frequency: float = 0.0, bias: Mapping[int, float] | None = None):
        self.presence, self.frequency, self.bias = presence, frequency, dict(bias or {})
        self._counts: Counter[int] = Counter()

    def shape(self, scores: Tensor) -> Tensor:
        change = dict(self.bias)
        for token, count in self._counts.items():
            change[token] = change.get(token, 0.0) - self.presence - self.frequency * count
        tokens = [token for token in change if token < len(scores)]
        added = torch.tensor([change[token] for token in tokens], dtype=scores.dtype, device=scores.device)
        return scores.index_add(0, torch.tensor(tokens, dtype=torch.long, device=scores.device), added)

    def take(self, token: int) -> bool:
        self._counts[token] += 1
        return False


@dataclass(frozen=True)
class TokenScore:
    """A token of an answer, its log-probability in nats, and the likeliest tokens with theirs, likeliest first."""

    token: int
    log_probability: float
    likeliest: Sequence[tuple[int, float]] = ()


class TokenScores(TokenRule):
    """Notes how likely each token was, and so many others; the last rule of a list sees what is drawn from at
    temperature 1.

    >>> rule = TokenScores(1); _ = rule.shape(torch.tensor([0.0, -torch.inf])); _ = rule.take(0); rule.scores
    [TokenScore(token=0, log_probability=0.0, likeliest=[(0, 0.0)])]
    """

    def __init__(self, num_likeliest: int = 0):
        self.num_likeliest = num_likeliest
        self.scores: list[TokenScore] = []
        self._next: Tensor = torch.empty(0)  # log-probabilities of the token to come, [vocab]

    def shape(self, scores: Tensor) -> Tensor:
        self._next = scores.float().log_softmax(dim=-1)
        return scores

    def take(self, token: int) -> bool:
        values, tokens = self._next.topk(min(self.num_likeliest, len(self._next)))
        likeliest = [*zip(tokens.tolist(), values.tolist(), strict=True)]
        self.scores.append(TokenScore(token, float(self._next[token]), likeliest))
        return False


class RuledScores(LogitsProcessor):
    """Rules as a logits processor of transformers' generate(), for its one row."""

    def __init__(self, rules: Sequence[TokenRule]):
        self.rules = rules

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """float [1, vocab]."""
        (row,) = scores
        for rule in self.rules:
            row = rule.shape(row)
        return row[None]


class RuledEnd(StoppingCriteria):
    """The same rules as a stopping criterion, which tells them each token; ends: tokens that end an answer."""

    def __init__(self, rules: Sequence[TokenRule], ends: Sequence[int] = ()):
        self.rules, self.ends, self.is_whole = rules, set(ends), False

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Whether an answer is whole, bool [rows], with the newest token, of input_ids [1, tokens]."""
        token = int(input_ids[0, -1])
        if token not in self.ends:
            heard = [rule.take(token) for rule in self.rules]  # all of them, whichever has enough
            self.is_whole = any(heard)
        return torch.full((input_ids.shape[0],), self.is_whole, device=input_ids.device)
