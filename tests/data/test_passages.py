"""Chunks become passages that a person can read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm.data.passages import LONGEST, SourceText, UsedSpan, find_passages, readable_bounds

TEXT = "The whale is white. Its name is Moby Dick! Ahab wants it dead.\n\nCall me Ishmael. Some years ago."


def used(needle: str, weight: float, document: int | None = 0, text: str = TEXT) -> UsedSpan:
    start = text.index(needle)
    return UsedSpan(document, start, start + len(needle), needle, weight)


@pytest.mark.parametrize(
    ("needle", "sentence"),
    [
        ("is white", "The whale is white."),
        ("Moby", "Its name is Moby Dick!"),
        ("Dick!", "Its name is Moby Dick!"),
        ("Ahab", "Ahab wants it dead."),
        ("me Ish", "Call me Ishmael."),
        ("ago", "Some years ago."),
    ],
)
def test_a_chunk_grows_to_its_sentence(needle, sentence):
    chunk = used(needle, 1.0)
    start, end = readable_bounds(TEXT, chunk.start, chunk.end)
    assert TEXT[start:end] == sentence


def test_without_sentences_it_grows_to_whole_words():
    text = "word " * 200
    start, end = readable_bounds(text, 501, 503)
    assert text[start:end].startswith("word ") and text[start:end].endswith("word")
    assert 100 < end - start <= 400


@given(st.text(alphabet="ab .\n", max_size=900), st.data())
def test_bounds_always_hold_the_chunk(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    low, high = readable_bounds(text, start, end)
    assert 0 <= low <= start <= end <= high <= len(text)
    assert start - low <= 200 and high - end <= 201


def test_chunks_of_one_sentence_are_one_passage_and_their_weights_add_up():
    chunks = [used("Ishmael", 0.3), used("white", 0.25), used("Call", 0.2), used("whale", 0.1)]
    passages = find_passages(chunks, {0: SourceText("moby", TEXT)})
    assert [(p.text, p.document) for p in passages] == [
        ("Call me Ishmael.", "moby"),
        ("The whale is white.", "moby"),
    ]
    assert [p.weight for p in passages] == pytest.approx([0.5, 0.35])
    assert all(TEXT[p.start : p.end] == p.text for p in passages)


def test_neighbouring_sentences_are_joined_and_long_stretches_are_not():
    joined = find_passages([used("white", 0.3), used("name", 0.2)], {0: SourceText("moby", TEXT)})
    assert [p.text for p in joined] == ["The whale is white. Its name is Moby Dick!"]
    text = "x" * 5000
    chunks = [UsedSpan(0, start, start + 10, "", 0.1) for start in range(300, 4000, 50)]
    passages = find_passages(chunks, {0: SourceText("long", text)}, most=99)
    assert len(passages) > 3 and all(p.end - p.start <= LONGEST for p in passages)
    ranges = sorted((p.start, p.end) for p in passages)
    assert all(end <= start for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False))


def test_documents_stay_apart_and_what_has_no_place_is_shown_as_it_is():
    other = "Another book. Ahab again."
    chunks = [
        used("Ahab", 0.4, 1, other),
        used("Ahab", 0.3),
        UsedSpan(None, 0, 0, "loose words", 0.2),
        used("white", 0.1, 7),
    ]
    passages = find_passages(chunks, {0: SourceText("moby", TEXT), 1: SourceText("other", other)})
    assert [(p.document, p.text) for p in passages] == [
        ("other", "Ahab again."),
        ("moby", "Ahab wants it dead."),
        (None, "loose words"),
        (None, "white"),
    ]
    assert passages[2].start is None


def test_only_the_most_used_are_returned():
    sentences = " ".join(f"Number {number} is here." for number in range(40))
    chunks = [used(f"Number {number} ", 1 / (number + 1), text=sentences) for number in range(0, 40, 4)]
    passages = find_passages(chunks, {0: SourceText("n", sentences)}, most=2)
    assert [p.text for p in passages] == ["Number 0 is here.", "Number 4 is here."]
