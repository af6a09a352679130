"""Suffix counts of a sequence of tokens, and how they are mixed; numpy, one present token at a time.

No table of n-grams is kept: the places where the present token stood before are scanned, and of these those where the
tokens before it were the same, too. That costs microseconds a thousand tokens, follows whatever is evicted, deleted or
reordered, and keeps nothing but the tokens. tests/reference/ngram.py counts n-grams in dictionaries.
"""

from __future__ import annotations

import numpy as np

BREAK = -1
"""Between two texts of one array of tokens: no suffix reaches over it, and it follows nothing."""


def suffix_matches(tokens: np.ndarray, end: int, known: int, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the suffix that ends at place `end` stood before: places of its last token, and how many tokens agree.

    tokens: int [n]; known: places below it count, all with a token after them; lengths are 1 to max_length.

    >>> suffix_matches(np.array([7, 8, 9, 8, 7, 8]), 5, 5, 16)
    (array([1, 3]), array([2, 1]))
    """
    places = np.flatnonzero(tokens[:known] == tokens[end])
    places = places[tokens[places + 1] != BREAK]
    lengths = np.ones_like(places)
    agreeing = np.arange(len(places))
    for back in range(1, min(max_length, end + 1)):
        if tokens[end - back] == BREAK:
            break
        agreeing = agreeing[places[agreeing] >= back]
        agreeing = agreeing[tokens[places[agreeing] - back] == tokens[end - back]]
        if not len(agreeing):
            break
        lengths[agreeing] += 1
    return places, lengths


def counts_by_length(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """How often the suffix of each length 1 ... max_length stood before, int [max_length]."""
    return np.bincount(lengths, minlength=max_length + 1)[::-1].cumsum()[::-1][1:]


def count_bucket(counts: np.ndarray, num_buckets: int) -> np.ndarray:
    """Which weight of its length a count has: 1, 2, 3-4, 5-8, ..., the last for all that is more."""
    return np.ceil(np.log2(np.maximum(counts, 1))).astype(int).clip(max=num_buckets - 1)


def shares(lengths: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The model's share of the mixture, and each place's, which goes to the token after it; together they are 1.

    Each suffix's distribution is mixed into that of all shorter ones, p = (1 - w) p + w counts / count, from the model
    on upwards. lengths [places]; weights: below 1, [max_length, buckets].

    >>> shares(np.array([2, 1]), np.array([[0.5], [0.2]]))
    (0.4, array([0.4, 0.2]))
    """
    counts = counts_by_length(lengths, len(weights))
    own = weights[np.arange(len(weights)), count_bucket(counts, weights.shape[1])] * (counts > 0)
    left = np.cumprod((1 - own)[::-1])[::-1]  # of this suffix and all longer ones
    of_length = own * np.append(left[1:], 1.0) / np.maximum(counts, 1)
    return float(left[0]), np.cumsum(of_length)[lengths - 1]
