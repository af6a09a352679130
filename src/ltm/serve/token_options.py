"""What a request says of single tokens: penalties, biases, and whether it wants to know how likely they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ltm.serve.answer_format import AnswerFormat, Json
from ltm.serve.errors import invalid
from ltm.text.token_rules import Penalties, TokenRule, TokenScore, TokenScores

if TYPE_CHECKING:
    from ltm.serve.grammar import Grammars

MOST_LIKELIEST = 20
MOST_BIASED = 1024
LEAST_LOG_PROBABILITY = -9999.0
"""What stands for none: JSON has no infinity, and this is OpenAI's number."""
TokenBytes = Callable[[int], bytes]
"""What a token says."""


@dataclass(frozen=True)
class TokenOptions:
    """presence, frequency, bias: as `Penalties`; num_likeliest: tokens that are named at each place beside its own;
    None: no log-probabilities are wanted."""

    presence: float = 0.0
    frequency: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    num_likeliest: int | None = None

    def rules(self, wanted: AnswerFormat, grammars: Grammars) -> tuple[list[TokenRule], TokenScores]:
        """The rules of one answer, and the one of them that notes scores (where none are wanted, it is not among
        them): scores are of what is drawn from, so it is the last."""
        rules: list[TokenRule] = []
        if self.presence or self.frequency or self.bias:
            rules.append(Penalties(self.presence, self.frequency, self.bias))
        grammar, scores = grammars.rule(wanted), TokenScores(self.num_likeliest or 0)
        rules += [] if grammar is None else [grammar]
        return [*rules, *([] if self.num_likeliest is None else [scores])], scores


def parse_bias(given: Mapping[str, float] | None) -> dict[int, float]:
    """`logit_bias`. Raises ApiError 400."""
    given = given or {}
    if len(given) > MOST_BIASED:
        raise invalid(f"logit_bias names {len(given)} tokens; name {MOST_BIASED} at most", "logit_bias")
    for token, bias in given.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 9 and -100 <= bias <= 100):
            raise invalid("logit_bias has token ids as keys and numbers from -100 to 100 as values", "logit_bias")
    return {int(token): bias for token, bias in given.items()}


def told_scores(scores: Sequence[TokenScore], token_bytes: TokenBytes) -> list[Json]:
    """Scores as clients get them."""
    return [
        {
            **_told(score.token, score.log_probability, token_bytes),
            "top_logprobs": [_told(token, nats, token_bytes) for token, nats in score.likeliest],
        }
        for score in scores
    ]


def _told(token: int, log_probability: float, token_bytes: TokenBytes) -> dict[str, Any]:
    own = token_bytes(token)
    nats = max(log_probability, LEAST_LOG_PROBABILITY)
    return {"token": own.decode("utf-8", "replace"), "logprob": nats, "bytes": list(own)}
