"""Padded batches of past tokens, cut into segments that are encoded on their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ltm.streams.window import Past

READ_BATCH_TOKENS = 2048
"""Segments of different rows, or that do not see each other, are read together: so many tokens of them in one pass."""


@dataclass
class Segment:
    """Consecutive tokens of one row: token_ids [tokens], memory row, document id, spans [tokens, 2] in its text."""

    token_ids: Tensor
    row: int
    document: int | None
    spans: Tensor | None


def cut_into_segments(past: Past, segment_size: int) -> Iterator[Segment]:
    """Segments of at most `segment_size` valid tokens, row after row; padding is left out wherever it stands."""
    for index, row in enumerate(past.rows.tolist()):
        valid = past.mask[index]
        tokens = past.ids[index][valid]
        spans = None if past.spans is None else past.spans[index][valid]
        document = None if past.documents is None else past.documents[index]
        for start in range(0, len(tokens), segment_size):
            part = slice(start, start + segment_size)
            yield Segment(tokens[part], row, document, None if spans is None else spans[part])


def batches_of(segments: Iterator[Segment], most_tokens: int) -> Iterator[list[Segment]]:
    """Consecutive segments whose padded batch has at most `most_tokens` tokens (one segment at least)."""
    batch: list[Segment] = []
    longest = 0
    for segment in segments:
        longest = max(longest, len(segment.token_ids))
        if batch and longest * (len(batch) + 1) > most_tokens:
            yield batch
            batch, longest = [], len(segment.token_ids)
        batch.append(segment)
    if batch:
        yield batch


def pad_segments(segments: Sequence[Segment]) -> tuple[Tensor, Tensor]:
    """Segments as one batch padded on the right: ids int64 and mask bool, [segments, longest]."""
    ids = pad_sequence([segment.token_ids for segment in segments], batch_first=True)
    lengths = torch.tensor([len(segment.token_ids) for segment in segments], device=ids.device)
    return ids, torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
