"""SegmentStream: documents to segment-ordered batches. A row walks one document in order, then takes another.

What is scored: the tokens after the first of each segment, as in the paper and as `forward(labels=...)`
counts them. A segment's first token has no local context to be predicted from; letting segments overlap by a
token would score it too, but then each overlap would be remembered twice, which reading never does. It costs
one token in segment_size.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltm.data.tokens import literal_ids
from ltm.errors import LtmError

from .config import TrainConfig
from .corpus import Corpus
from .order import DocumentOrder

IGNORED = -100
"""The label of what is not scored, as in transformers."""


@dataclass(frozen=True)
class Batch:
    """One segment of each row's document, padded on the right to the longest.

    input_ids, attention_mask, labels: int64 [rows, tokens]; labels equal input_ids, -100 at padding.
    starts: bool [rows], True where a row begins a document, so that its memory must be reset first.
    documents: int tuple, the number in the corpus of each row's document.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    starts: Tensor
    documents: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.attention_mask.sum())

    @property
    def num_scored(self) -> int:
        """Tokens that count in the mean loss: labels after the first of each row."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        ids, mask = self.input_ids.to(device), self.attention_mask.to(device)
        return Batch(ids, mask, self.labels.to(device), self.starts.to(device), self.documents)


@dataclass
class _Row:
    """Where a row is: place in the order (below 0: before the first), its tokens, how many were given."""

    position: int
    offset: int = 0
    tokens: Tensor | None = None


class SegmentStream:
    """An endless iterator of batches over a corpus.

    tokenizer: the backbone's. rows: rows of this process. segment_size: tokens. max_document_tokens: longer
    documents are cut to this many tokens from a random start, so that no book holds a row for the whole run.
    weights: one for each kind of the corpus (see `DocumentOrder`). seed: of order and cuts.

    With R rows over all processes, row r takes the documents r, r + R, r + 2R, ... of the order: no two rows
    share a document of an epoch, and two processes with one row each see what one process with two rows sees.
    The state is a position and an offset for each row.

    >>> stream = SegmentStream(Corpus.from_paths("books"), backbone.tokenizer, rows=4)  # doctest: +SKIP
    >>> batch = next(stream)  # doctest: +SKIP
    >>> method.reset(rows=batch.starts.nonzero().flatten())  # doctest: +SKIP
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Any,
        *,
        rows: int = 1,
        segment_size: int = 1024,
        max_document_tokens: int | None = None,
        weights: Sequence[float] | None = None,
        seed: int = 0,
    ):
        if tokenizer is None:
            raise LtmError("the backbone has no tokenizer; load it with load_backbone(..., tokenizer=...)")
        self.corpus, self.tokenizer = corpus, tokenizer
        self.segment_size, self.max_document_tokens, self.seed = segment_size, max_document_tokens, seed
        self._order = DocumentOrder(corpus, seed=seed, weights=weights, max_tokens=max_document_tokens)
        self._weights = None if weights is None else list(weights)
        self._num_rows = rows
        self.shard(0, 1)

    @classmethod
    def from_config(
        cls, corpus: Corpus, tokenizer: Any, config: TrainConfig, weights: Sequence[float] | None = None
    ) -> SegmentStream:
        """The stream that a training config asks for."""
        return cls(
            corpus,
            tokenizer,
            rows=config.batch_rows,
            segment_size=config.segment_size,
            max_document_tokens=config.max_document_tokens,
            weights=weights,
            seed=config.seed,
        )

    def shard(self, index: int, count: int) -> None:
        """Become process `index` of `count`, from the beginning."""
        self._stride = self._num_rows * count
        first = index * self._num_rows - self._stride
        self._rows = [_Row(first + row) for row in range(self._num_rows)]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        segments, starts = [], []
        for row in self._rows:
            starts.append(self._settle(row))
            segments.append(self._take(row))
        width = max(len(segment) for segment in segments)
        input_ids = torch.zeros(len(segments), width, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for number, segment in enumerate(segments):
            input_ids[number, : len(segment)] = segment
            mask[number, : len(segment)] = 1
        labels = input_ids.masked_fill(mask == 0, IGNORED)
        documents = tuple(self._order[row.position] for row in self._rows)
        return Batch(input_ids, mask, labels, torch.tensor(starts), documents)

    def _settle(self, row: _Row) -> bool:
        """Make sure that a row has 2 tokens or more left to give; True if it had to take another document."""
        if row.position >= 0 and row.tokens is None:
            row.tokens = self._tokens_at(row.position)  # after load_state_dict
        if row.tokens is not None and len(row.tokens) - row.offset >= 2:
            return False
        for _ in range(len(self.corpus)):
            row.position, row.offset = row.position + self._stride, 0
            row.tokens = self._tokens_at(row.position)
            if len(row.tokens) >= 2:
                return True
        raise LtmError(f"{len(self.corpus)} documents in a row have fewer than 2 tokens; give longer texts")

    def _take(self, row: _Row) -> Tensor:
        """The next segment of a row, int32 [at most segment_size]."""
        assert row.tokens is not None
        segment = row.tokens[row.offset : row.offset + self.segment_size]
        row.offset += len(segment)
        return segment

    def _tokens_at(self, position: int) -> Tensor:
        """The (cut) tokens of the document at a place in the order, int32 [tokens]; always the same."""
        tokens = tokenize(self.tokenizer, self.corpus[self._order[position]].text)
        limit = self.max_document_tokens
        if limit is None or len(tokens) <= limit:
            return tokens
        start = random.Random(f"cut {self.seed} {position}").randint(0, len(tokens) - limit)
        return tokens[start : start + limit].clone()

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, ready for JSON."""
        return {
            "identity": self._identity(),
            "rows": [{"position": row.position, "offset": row.offset} for row in self._rows],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken; raises LtmError if data or settings are others."""
        ours, theirs = self._identity(), state["identity"]
        if ours != theirs:
            changed = [
                f"{name} was {theirs.get(name)}, is {ours[name]}" for name in ours if ours[name] != theirs.get(name)
            ]
            raise LtmError(f"cannot resume on other data or settings: {'; '.join(changed)}; restore them or start anew")
        self._rows = [_Row(row["position"], row["offset"]) for row in state["rows"]]

    def describe(self) -> dict[str, Any]:
        """What is read, for the record of a run."""
        kinds = {name: len(self.corpus.of_kind(kind)) for kind, name in enumerate(self.corpus.kind_names)}
        return {"documents_of_kind": kinds, **self._identity()}

    def _identity(self) -> dict[str, Any]:
        """What must not change for a position to mean the same."""
        return {
            "documents": self.corpus.fingerprint,
            "rows": self._num_rows,
            "rows of all processes": self._stride,
            "segment_size": self.segment_size,
            "max_document_tokens": self.max_document_tokens,
            "weights": self._weights,
            "seed": self.seed,
        }


def tokenize(tokenizer: Any, text: str) -> Tensor:
    """Token ids of a text of any length in one call, no special tokens: int32 [tokens] (half of int64)."""
    return torch.tensor(literal_ids(tokenizer, text), dtype=torch.int32)
