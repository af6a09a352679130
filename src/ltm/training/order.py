"""DocumentOrder: the endless shuffled sequence of documents a run draws from, alike in every process."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ltm.errors import ConfigError

from .corpus import Corpus

CHARS_PER_TOKEN = 4
"""Only used to guess how much of a document a cut keeps, to weigh kinds."""


class DocumentOrder:
    """Document numbers without end: `order[n]` is the n-th document drawn.

    Without weights each epoch is a new shuffle of all documents, so that kinds come as often as they have
    documents. With weights (one for each kind) kinds share the *text* seen in these proportions, kinds are
    dealt evenly, and each kind has epochs of its own. The sequence depends on the seed and the corpus alone,
    so that a position in it is all that a checkpoint has to keep.

    >>> corpus = Corpus.from_paths(["books", "papers"])  # doctest: +SKIP
    >>> order = DocumentOrder(corpus, seed=0, weights=[1, 1])  # doctest: +SKIP
    >>> order[0], order[1]  # doctest: +SKIP
    (41, 7)
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        seed: int,
        weights: Sequence[float] | None = None,
        max_tokens: int | None = None,
    ):
        self._random = random.Random(f"order {seed}")
        num_kinds = len(corpus.kind_names)
        self._pools = [list(range(len(corpus)))] if weights is None else [corpus.of_kind(k) for k in range(num_kinds)]
        self._shares = [1.0] if weights is None else _shares(corpus, self._pools, weights, max_tokens)
        self._decks: list[list[int]] = [[] for _ in self._pools]
        self._dealt = [0.0 for _ in self._pools]
        self._drawn: list[int] = []

    def __getitem__(self, position: int) -> int:
        while len(self._drawn) <= position:
            self._drawn.append(self._draw(self._next_pool()))
        return self._drawn[position]

    def _next_pool(self) -> int:
        """The pool furthest behind its share; half a document of chance keeps patterns from forming."""
        if len(self._pools) == 1:
            return 0
        num_drawn = len(self._drawn) + 1
        behind = [
            share * num_drawn - dealt + self._random.random() / 2 if share > 0 else float("-inf")
            for share, dealt in zip(self._shares, self._dealt, strict=True)
        ]
        return behind.index(max(behind))

    def _draw(self, pool: int) -> int:
        """The next document of a pool; a pool that has run out is shuffled anew."""
        if not self._decks[pool]:
            self._decks[pool] = self._random.sample(self._pools[pool], len(self._pools[pool]))
        self._dealt[pool] += 1
        return self._decks[pool].pop()


def _shares(corpus: Corpus, pools: list[list[int]], weights: Sequence[float], max_tokens: int | None) -> list[float]:
    """Share of documents to draw from each kind, so that the text drawn has the proportions of `weights`."""
    if len(weights) != len(pools):
        raise ConfigError(f"{len(weights)} weights came for {len(pools)} kinds of documents; give one for each path")
    if not all(0 <= weight < float("inf") for weight in weights) or sum(weights) <= 0:
        raise ConfigError(f"weights {list(weights)}; use numbers of 0 or more, at least one above 0")
    longest = float("inf") if max_tokens is None else max_tokens * CHARS_PER_TOKEN
    rates = []
    for pool, weight in zip(pools, weights, strict=True):
        if weight and not pool:
            raise ConfigError("a kind with a weight above 0 has no documents; leave its path out")
        chars = sum(min(corpus[number].num_chars, longest) for number in pool)
        rates.append(weight * len(pool) / chars if weight else 0.0)
    return [rate / sum(rates) for rate in rates]
