"""Perplexity of texts that were scored."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DocumentScore:
    """One text under one method; losses: float32 [scored], nats of its 2nd, 3rd, ... token."""

    name: str
    losses: Tensor


@dataclass(frozen=True)
class PerplexityResult:
    """Scores of a few texts together, and the seconds that they took."""

    documents: list[DocumentScore]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens scored in all documents."""
        return sum(len(document.losses) for document in self.documents)

    @property
    def nats(self) -> float:
        """Sum of the losses of all scored tokens, added up in float64."""
        return sum(float(document.losses.double().sum()) for document in self.documents)

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens): every token counts the same, whichever document it is in."""
        return math.exp(min(self.nats / self.tokens, 700.0)) if self.tokens else math.nan


def doubling_edges(tokens: int) -> list[int]:
    """0, 1024, 2048, 4096, ... until `tokens` are covered."""
    edges = [0, 1024]
    while edges[-1] < tokens:
        edges.append(edges[-1] * 2)
    return edges
