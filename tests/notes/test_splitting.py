"""Passages: whole sentences as far as they fit, nothing lost, nothing twice."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm.notes.splitting import passages, sentences

TEXT = 'He said "Stop!" Then he left.\n\nA title\n\nOne more. (And this?) End'


def cut(text, most):
    return [text[start:end] for start, end in passages(text, most)]


def test_sentences_end_where_a_reader_ends_them():
    found = [TEXT[start:end] for start, end in sentences(TEXT)]
    assert found == ['He said "Stop!"', "Then he left.", "A title", "One more.", "(And this?)", "End"]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (3, ['He said "Stop!"', "Then he left.", "A title", "One more.", "(And this?) End"]),
        (6, ['He said "Stop!" Then he left.', "A title\n\nOne more. (And this?)", "End"]),
        (2, ["He said", '"Stop!"', "Then he", "left.", "A title", "One more.", "(And this?)", "End"]),
        (99, [TEXT]),
    ],
)
def test_as_many_sentences_as_fit(most, expected):
    assert cut(TEXT, most) == expected


def test_a_run_without_spaces_is_cut_too():
    assert max(map(len, cut("x" * 1000, 10))) <= 240


@given(st.text(alphabet="ab .!?\n\"'é漢\t", max_size=200), st.integers(1, 12))
def test_everything_is_in_one_passage(text, most):
    found = passages(text, most)
    assert re.sub(r"\s", "", text) == re.sub(r"\s", "", "".join(text[start:end] for start, end in found))
    ends = [0, *(place for span in found for place in span)]
    assert ends == sorted(ends) and all(start < end for start, end in found)
    for piece in cut(text, most):
        assert piece == piece.strip() and len(re.findall(r"\S{1,24}", piece)) <= most
