"""Validation: perplexity with and without memory, on the same few segments each time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .corpus import Corpus
from .protocol import TrainableMethod, empty_memory
from .stream import tokenize

Validate = Callable[[TrainableMethod], dict[str, float]]
"""What a Trainer calls in eval mode, without gradients, for figures to log; it reads into memories of its own."""


class Validation:
    """Measures a method on the first segments of a few documents of each kind, read in order.

    corpus: validation documents; tokenizer: the backbone's; segment_size: tokens, as in training.
    documents_per_kind: the first ones that are long enough (or the longest); segments_per_document: from the
    start on; the more, the more there is to remember, and the longer it takes.

    >>> validation = Validation(Corpus.from_paths("held_out"), tokenizer, segment_size=256)  # doctest: +SKIP
    >>> validation(method)  # doctest: +SKIP
    {'perplexity': 21.3, 'perplexity_memory_off': 22.0}
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Any,
        *,
        segment_size: int,
        documents_per_kind: int = 2,
        segments_per_document: int = 8,
    ):
        self.kinds: dict[str, list[list[Tensor]]] = {}
        for kind, name in enumerate(corpus.kind_names):
            wanted = segment_size * segments_per_document
            # 8 characters a token is more than any tokenizer packs into ordinary text
            texts = [corpus[number].text[: 8 * wanted] for number in corpus.of_kind(kind)]
            texts = sorted(texts, key=len, reverse=True)[:documents_per_kind]
            tokens = (tokenize(tokenizer, text)[:wanted] for text in texts)
            self.kinds[name] = [_segments(ids, segment_size) for ids in tokens]

    def __call__(self, method: TrainableMethod) -> dict[str, float]:
        """Perplexities over all kinds, and of each where there are several."""
        device = next(iter(method.trainable_parameters())).device
        losses = {(kind, on): self._losses(method, kind, on, device) for kind in self.kinds for on in (True, False)}
        figures = {}
        for on, name in ((True, "perplexity"), (False, "perplexity_memory_off")):
            figures[name] = _perplexity(torch.cat([losses[kind, on] for kind in self.kinds]))
            if len(self.kinds) > 1:
                figures.update({f"{name}/{kind}": _perplexity(losses[kind, on]) for kind in self.kinds})
        return figures

    def _losses(self, method: TrainableMethod, kind: str, memory: bool, device: torch.device) -> Tensor:
        """Summed loss and number of scored tokens of each segment: float64 [segments, 2]."""
        results = []
        for document in self.kinds[kind]:
            held = empty_memory(method, 1) if memory else None
            for segment in document:
                inputs = {"input_ids": segment.to(device), "labels": segment.to(device)}
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
                loss = method(**inputs, memory=held, remember=True).loss
                scored = segment.shape[1] - 1
                results.append([float(loss) * scored, scored])
        return torch.tensor(results, dtype=torch.float64).reshape(-1, 2)


def _segments(tokens: Tensor, segment_size: int) -> list[Tensor]:
    """Segments int64 [1, tokens] of 2 tokens or more."""
    pieces = tokens.long().split(segment_size)
    return [piece[None] for piece in pieces if len(piece) >= 2]


def _perplexity(losses: Tensor) -> float:
    total, scored = losses.sum(dim=0).tolist()
    return math.exp(min(total / scored, 700.0)) if scored else math.nan
