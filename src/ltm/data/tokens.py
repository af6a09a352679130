"""Text to tokens that know where they came from: ids in blocks of a fixed size, each token with its character range.

A text is taken literally: where it spells a control token out ("<|im_end|>"), it becomes the tokens of these letters
and never the control token (`ltm.data.control`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltm.data.control import ControlTokens
from ltm.errors import LtmError

PIECE_CHARS = 100_000
"""Characters given to the tokenizer at once: a whole library of text would need gigabytes of offsets."""

# Where a cut changes no token of a byte-level tokenizer: between a line end and a word, or before a lone space.
_CUTS = (re.compile(r"\S\n(?=\S)"), re.compile(r"\S(?= \S)"), re.compile(r"\s(?=\S)"))
_CUT_ZONE = 4000


@dataclass(frozen=True)
class TokenBlock:
    """Consecutive tokens of a text: ids int64 [tokens]; spans int64 [tokens, 2], the character range of each token,
    None where the tokenizer cannot tell; end: characters of the text up to here."""

    ids: Tensor
    spans: Tensor | None
    end: int


def token_blocks(tokenizer: Any, text: str, block_tokens: int) -> Iterator[TokenBlock]:
    """The tokens of a text, without special tokens, in blocks of `block_tokens` (the last may be shorter).

    tokenizer: of transformers; only its fast kind knows character ranges. A text of any length needs memory for one
    block and one piece of 100,000 characters. Raises LtmError without a tokenizer.

    >>> [block.ids.tolist() for block in token_blocks(byte_tokenizer(), "abc", 2)]
    [[97, 98], [99]]
    """
    ids, spans = _new_ids(), _new_spans()
    with_spans = bool(getattr(_checked(tokenizer), "is_fast", False))
    for start, end in text_pieces(text):
        new_ids, new_spans = _encode(tokenizer, text[start:end], with_spans)
        ids, spans = torch.cat((ids, new_ids)), torch.cat((spans, new_spans + start))
        while len(ids) >= block_tokens:
            yield _block(ids[:block_tokens], spans[:block_tokens], with_spans, end)
            ids, spans = ids[block_tokens:], spans[block_tokens:]
    if len(ids):
        yield _block(ids, spans, with_spans, len(text))


def token_ids(tokenizer: Any, text: str) -> Tensor:
    """All tokens of a text, without special tokens, int64 [tokens]."""
    _checked(tokenizer)
    pieces = [_encode(tokenizer, text[start:end], False)[0] for start, end in text_pieces(text)]
    return torch.cat([_new_ids(), *pieces])


def literal_ids(tokenizer: Any, text: str) -> list[int]:
    """All tokens of a text in one call of the tokenizer, without special tokens."""
    return _encode(_checked(tokenizer), text, False)[0].tolist()


def text_pieces(text: str, most: int = PIECE_CHARS) -> Iterator[tuple[int, int]]:
    """Character ranges of at most `most` that cover a text, cut where tokens end anyway, if there is such a place."""
    start = 0
    while len(text) - start > most:
        end = _last_cut(text, start + max(most - _CUT_ZONE, 1), start + most)
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


def _last_cut(text: str, low: int, high: int) -> int:
    """The last good place to cut in low..high; high itself where there is none."""
    for pattern in _CUTS:
        places = [match.end() for match in pattern.finditer(text, low, high)]
        if places:
            return places[-1]
    return high


def _encode(tokenizer: Any, piece: str, with_spans: bool) -> tuple[Tensor, Tensor]:
    """Ids [tokens] and spans [tokens, 2] of a piece, none of them a control token that the piece only spells."""
    encoded = tokenizer(
        piece,
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=with_spans,
        verbose=False,
    )
    ids, spans = encoded["input_ids"], encoded["offset_mapping"] if with_spans else []
    control = ControlTokens.of(tokenizer)
    if control.spelled(piece, ids):
        ids, spans = control.encode(piece)
    spans = spans if with_spans else [(0, 0)] * len(ids)
    return torch.tensor(ids, dtype=torch.long), torch.tensor(spans, dtype=torch.long).reshape(-1, 2)


def _block(ids: Tensor, spans: Tensor, with_spans: bool, end: int) -> TokenBlock:
    return TokenBlock(ids, spans if with_spans else None, int(spans[-1, 1]) if with_spans else end)


def _checked(tokenizer: Any) -> Any:
    if tokenizer is None:
        raise LtmError(
            "the backbone has no tokenizer, so it takes no text; load it with load_backbone(..., tokenizer=...)"
        )
    return tokenizer


def _new_ids() -> Tensor:
    return torch.empty(0, dtype=torch.long)


def _new_spans() -> Tensor:
    return torch.empty(0, 2, dtype=torch.long)
