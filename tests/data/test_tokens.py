"""Blocks of tokens know where they came from, whatever the text is and however it is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ltm.data.tokens
from ltm.backbone.tiny import byte_tokenizer
from ltm.data.tokens import text_pieces, token_blocks, token_ids
from ltm.errors import LtmError

TOKENIZER = byte_tokenizer()
TEXT = "First line.\nSecond — with ünïcode, 日本 and 🙂.\n\n  Third, indented.\r\n" * 7


@pytest.mark.parametrize("block_tokens", [1, 7, 64, 10_000])
def test_blocks_hold_every_token_with_its_characters(block_tokens):
    blocks = list(token_blocks(TOKENIZER, TEXT, block_tokens))
    ids, spans = torch.cat([b.ids for b in blocks]), torch.cat([b.spans for b in blocks])
    assert ids.tolist() == list(TEXT.encode())
    assert all(len(block.ids) == block_tokens for block in blocks[:-1])
    starts = [index for index, character in enumerate(TEXT) for _ in character.encode()]
    assert spans[:, 0].tolist() == starts
    assert spans[-1, 1] == blocks[-1].end == len(TEXT)


def test_cutting_a_text_changes_no_token(monkeypatch):
    whole = list(token_blocks(TOKENIZER, TEXT, 50))
    monkeypatch.setattr(ltm.data.tokens, "PIECE_CHARS", 40)
    monkeypatch.setattr(ltm.data.tokens.text_pieces, "__defaults__", (40,))
    assert len(list(text_pieces(TEXT))) > 5
    cut = list(token_blocks(TOKENIZER, TEXT, 50))
    for one, other in zip(whole, cut, strict=True):
        assert one.ids.tolist() == other.ids.tolist() and one.spans.tolist() == other.spans.tolist()
    assert token_ids(TOKENIZER, TEXT).tolist() == list(TEXT.encode())


@given(st.text(max_size=300), st.integers(1, 50))
def test_pieces_cover_any_text(text, most):
    pieces = list(text_pieces(text, most))
    assert "".join(text[start:end] for start, end in pieces) == text
    assert all(0 < end - start <= most for start, end in pieces)


def test_pieces_end_with_a_line_where_there_is_one():
    pieces = [TEXT[start:end] for start, end in text_pieces("word " * 30 + "\n" + "x" * 60, 100)]
    assert len(pieces) == 3
    assert [end for _, end in text_pieces("abc def\nghi jkl", 10)] == [8, 15]


def test_a_tokenizer_without_offsets_gives_no_spans():
    class Slow:
        is_fast = False

        def __call__(self, text, return_offsets_mapping, **options):
            assert not return_offsets_mapping
            return {"input_ids": list(text.encode())}

    (block,) = token_blocks(Slow(), "abc", 10)
    assert block.spans is None and block.end == 3 and block.ids.tolist() == [97, 98, 99]


def test_no_text_gives_no_block_and_no_tokenizer_an_error():
    assert list(token_blocks(TOKENIZER, "", 4)) == []
    with pytest.raises(LtmError, match="no tokenizer"):
        list(token_blocks(None, "abc", 4))
