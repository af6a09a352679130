"""Perplexity on long texts: each document is one stream of tokens, given piece by piece; all but the first are scored.

The paper's protocol (Wang et al., 2023, §3.2) is a stride as long as the window: segments do not overlap, and what
leaves the window is gone for `window` and remembered by a method with a memory. A shorter stride gives every token more
local context and takes window / stride times as long.

Like with like: a method whose positions end (`full`) scores a document only as far as they reach, so figures over
everything that each method could score would compare different texts. `compare` therefore also gives each method's
perplexity over the *common* tokens, the first tokens of each document that all of them scored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ltm.errors import LtmError
from ltm.streams.scoring import Progress, score_stream

if TYPE_CHECKING:
    from ltm.methods import Reader


@dataclass(frozen=True)
class DocumentScore:
    """One document under one method; losses: float32 [scored], nats of its 2nd, 3rd, ... token."""

    name: str
    losses: Tensor

    @property
    def tokens(self) -> int:
        """Tokens that were scored."""
        return len(self.losses)


@dataclass(frozen=True)
class PerplexityResult:
    """What `perplexity` measured: a score for each document, and the seconds that it took."""

    documents: list[DocumentScore]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens scored in all documents."""
        return sum(document.tokens for document in self.documents)

    @property
    def nats(self) -> float:
        """Sum of the losses of all scored tokens, added up in float64."""
        return sum(float(document.losses.double().sum()) for document in self.documents)

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens): every token counts the same, whichever document it is in."""
        return _perplexity(self.nats, self.tokens)

    def first(self, lengths: Sequence[int]) -> PerplexityResult:
        """The same scores with each document cut to its first `lengths[i]` scored tokens."""
        cut = [DocumentScore(d.name, d.losses[:length]) for d, length in zip(self.documents, lengths, strict=True)]
        return PerplexityResult(cut, self.seconds)

    def by_position(self, edges: Sequence[int]) -> list[dict[str, Any]]:
        """Perplexity of the tokens whose place in their document lies in edges[i] to edges[i + 1] - 1, for each i.

        The first token has place 0 and is never scored. Ranges without a scored token are left out.
        """
        rows = []
        for low, high in pairwise(edges):
            parts = [document.losses[max(low - 1, 0) : high - 1] for document in self.documents]
            tokens = sum(map(len, parts))
            if tokens:
                nats = sum(float(part.double().sum()) for part in parts)
                rows.append({"from": low, "to": high - 1, "tokens": tokens, "perplexity": _perplexity(nats, tokens)})
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: totals, each document, and ranges of positions that double in length."""
        longest = max((document.tokens + 1 for document in self.documents), default=0)
        return {
            **_figures(self),
            "seconds": self.seconds,
            "documents": [{"name": d.name, **_figures(PerplexityResult([d], 0.0))} for d in self.documents],
            "by_position": self.by_position(doubling_edges(longest)),
        }


def perplexity(
    method: Reader,
    documents: Iterable[tuple[str, Tensor]],
    *,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> PerplexityResult:
    """Score documents one after another, each with a memory of its own: what was read before is forgotten.

    documents: name and token ids (int64 [tokens]) of each; max_tokens: most tokens taken of each, None for all.
    A method whose stream ends (`max_stream_tokens`) scores what fits. Raises LtmError where nothing could be scored.

    >>> method = create_method("window", load_backbone("smollm2-135m"), local_window=256, stride=256)  # doctest: +SKIP
    >>> perplexity(method, [("a", ids)]).perplexity  # doctest: +SKIP
    21.3
    """
    scores, started = [], time.perf_counter()
    for name, ids in documents:
        method.reset()
        ids = ids[: _least(max_tokens, method.max_stream_tokens)]
        scores.append(DocumentScore(name, score_stream(method, ids, progress=progress)))
    method.reset()
    result = PerplexityResult(scores, time.perf_counter() - started)
    if not result.tokens:
        raise LtmError(f"{len(scores)} documents held no text of two tokens or more; there is nothing to score")
    return result


def compare(results: dict[str, PerplexityResult]) -> dict[str, dict[str, Any]]:
    """Each method's figures, with those over the tokens that all methods scored under "common".

    results: by method, of the same documents in the same order.
    """
    lengths = [min(counts) for counts in zip(*([d.tokens for d in r.documents] for r in results.values()), strict=True)]
    return {name: {**result.to_dict(), "common": _figures(result.first(lengths))} for name, result in results.items()}


def doubling_edges(tokens: int) -> list[int]:
    """0, 1024, 2048, 4096, ... until `tokens` are covered."""
    edges = [0, 1024]
    while edges[-1] < tokens:
        edges.append(edges[-1] * 2)
    return edges


def _figures(result: PerplexityResult) -> dict[str, Any]:
    """JSON has no NaN: a perplexity of no tokens is None."""
    return {
        "tokens": result.tokens,
        "nats": result.nats,
        "perplexity": result.perplexity if result.tokens else None,
    }


def _perplexity(nats: float, tokens: int) -> float:
    return math.exp(min(nats / tokens, 700.0)) if tokens else math.nan


def _least(*limits: int | None) -> int:
    """The smallest of the limits that are set."""
    return min((limit for limit in limits if limit is not None), default=2**62)
