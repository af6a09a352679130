"""The n-gram cache written out naively: dictionaries of counts, mixed from the shortest suffix to the longest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ltm.methods.baselines.ngram.weights import WEIGHTS


def naive_ngram(
    texts: Sequence[Sequence[int]],
    present: Sequence[int],
    probabilities: Sequence[float],
    max_length: int,
    weights: Sequence[Sequence[float]] = WEIGHTS,
) -> list[float]:
    """Probabilities of the token after `present`: the model's, with what followed its suffixes in `texts` mixed in."""
    mixed = list(probabilities)
    for length in range(1, min(max_length, len(present)) + 1):
        followers = _followers(texts, tuple(present[len(present) - length :]))
        count = sum(followers.values())
        if count:
            weight = weights[length - 1][_bucket(count, len(weights[0]))]
            mixed = [(1 - weight) * p + weight * followers[token] / count for token, p in enumerate(mixed)]
    return mixed


def _followers(texts: Sequence[Sequence[int]], suffix: tuple[int, ...]) -> Counter[int]:
    """How often each token came after a suffix."""
    found: Counter[int] = Counter()
    for text in texts:
        for start in range(len(text) - len(suffix)):
            if tuple(text[start : start + len(suffix)]) == suffix:
                found[text[start + len(suffix)]] += 1
    return found


def _bucket(count: int, num_buckets: int) -> int:
    bucket, most = 0, 1
    while count > most and bucket < num_buckets - 1:
        bucket, most = bucket + 1, most * 2
    return bucket
