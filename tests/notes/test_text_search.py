"""Search: BM25, cosine and their fusion beside naive references; what is found follows every change."""

import math
import random
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch

from ltm.errors import LtmError
from ltm.notes.encoder import HashEncoder
from ltm.notes.search import fuse
from ltm.notes.store import NoteStore

HASH = HashEncoder()
WORDS = ["amber", "bolt", "cedar", "drum", "ember", "flint", "gravel", "hollow", "iron", "jade", "kelp", "lumen"]


def naive_bm25(texts, query, k1=1.2, b=0.75):
    """Of each text, in the order of texts; the inverse document frequency is at least 1e-6 (SQLite's)."""
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    mean = sum(map(len, words)) / len(words)
    scores = []
    for own in words:
        score = 0.0
        for word in dict.fromkeys(re.findall(r"\w+", query.lower())):
            holding = sum(word in other for other in words)
            weight = max(math.log((len(words) - holding + 0.5) / (holding + 0.5)), 1e-6)
            count = Counter(own)[word]
            score += weight * count * (k1 + 1) / (count + k1 * (1 - b + b * len(own) / mean))
        scores.append(score)
    return scores


def filled(texts, encoder=HASH):
    row = NoteStore().row(0, lambda: encoder)
    event = row.append("all")
    for text in texts:
        row.add(text, event)
    return row


@pytest.fixture
def texts():
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(60)]


@pytest.mark.parametrize("query", ["amber", "amber drum amber", "Kelp? lumen! no-such-word", "iron jade ember bolt"])
def test_words_score_as_bm25_does(texts, query):
    found = filled(texts).search(query, 100, by="words")
    expected = {note: score for note, score in enumerate(naive_bm25(texts, query)) if score > 0}
    assert {one.note.id: pytest.approx(one.score, rel=1e-9) for one in found} == expected
    assert [one.note.id for one in found] == sorted(expected, key=lambda note: (-expected[note], note))
    assert [one.ranks["words"] for one in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize("query", ["amber", "drumming cedars", "zzz"])
def test_meaning_scores_as_the_cosine_of_vectors(texts, query):
    row = filled(texts)
    cosines = HASH.embed(texts) @ HASH.embed([query])[0]
    for count in (1, 7, 60, 100):
        found = row.search(query, count, by="meaning")
        order = sorted(range(len(texts)), key=lambda note: (-float(cosines[note]), note))[:count]
        assert torch.allclose(torch.tensor([one.score for one in found]), cosines[order], atol=1e-6)
        assert {one.note.id for one in found} == set(order) or count < 60  # equal texts tie


def test_fusion_by_hand():
    fused = fuse({"words": [5, 3, 9], "meaning": [3, 4]}, count=9)
    assert [note for note, _, _ in fused] == [3, 5, 4, 9]
    assert fused[0][1] == pytest.approx(1 / 62 + 1 / 61) and fused[0][2] == {"words": 2, "meaning": 1}
    assert fuse({"words": [], "meaning": []}, 3) == []
    assert [note for note, _, _ in fuse({"words": [2], "meaning": [1]}, 2)] == [2, 1]  # of equals the first list's


def test_hybrid_is_the_fusion_of_both(texts):
    row = filled(texts)
    lists = {by: [one.note.id for one in row.search("amber drum", 50, by=by)] for by in ("words", "meaning")}
    expected = fuse(lists, 10)
    found = row.search("amber drum", 10)
    assert [(one.note.id, one.score, one.ranks) for one in found] == expected


def test_stems_case_and_accents_do_not_matter():
    row = filled(["The fishers were FISHING near the café.", "Nothing here."])
    for query in ("fish", "Fished", "cafe", "CAFÉ"):
        assert [one.note.id for one in row.search(query, 5, by="words")] == [0]


@pytest.mark.parametrize("query", ['"', "AND OR NOT NEAR(", "a* ^b {x}: -c", "'; DROP TABLE notes; --", "", "  ", "?!"])
def test_a_query_is_words_and_never_syntax(query):
    row = filled(["amber or not", "near"])
    assert len(row.search(query, 5, by="words")) <= 2 and len(row) == 2
    row.search(query, 5)


def test_only_notes_of_a_kind_are_found():
    row = NoteStore().row(0, lambda: HASH)
    event = row.append("all")
    for _ in range(80):  # more than the candidates of each search
        row.add("amber amber amber", event, kind="loud")
    quiet = row.add("amber once", event, kind="quiet")
    for by in ("words", "meaning", "hybrid"):
        assert [one.note for one in row.search("amber", 5, by=by, kind="quiet")] == [quiet]


def test_keys_are_searched_and_texts_shown():
    row = NoteStore().row(0, lambda: HASH)
    note = row.add("It is under the mat.", row.append("all"), key="where the key lies")
    for by in ("words", "meaning", "hybrid"):
        assert row.search("key", 1, by=by)[0].note == note
    assert row.search("mat", 1, by="words") == []


def test_what_is_found_follows_changes(texts):
    row = filled(texts)
    row.search("amber", 5)
    draw = random.Random(1)
    for _ in range(30):
        note = draw.choice(row.notes())
        if draw.random() < 0.5:
            row.delete([note.id])
        else:
            row.put(replace(note, text=" ".join(draw.choices(WORDS, k=5))))
        row.add(draw.choice(WORDS), row.event(0))
    fresh = NoteStore().row(0, lambda: HASH)
    row.copy_to(fresh)
    for by in ("words", "meaning", "hybrid"):
        for query in ("amber drum", "lumen"):
            found, expected = row.search(query, 40, by=by), fresh.search(query, 40, by=by)
            assert [one.note.id for one in found] == [one.note.id for one in expected]
            assert [one.score for one in found] == pytest.approx([one.score for one in expected])


def test_vectors_of_another_encoder_are_made_anew(texts):
    row = filled(texts)
    row.search("amber", 5, by="meaning")
    wide = HashEncoder(width=64)
    other = row.__class__(row.database, 0, row._vectors, lambda: wide)
    cosines = wide.embed(texts) @ wide.embed(["amber"])[0]
    assert other.search("amber", 1, by="meaning")[0].score == pytest.approx(float(cosines.max()), abs=1e-6)
    kept = row.database.run("SELECT DISTINCT encoder FROM vectors")
    assert kept == [(wide.identity,)]


def test_without_an_encoder_words_are_searched_and_meaning_is_told():
    row = NoteStore()[0]
    row.add("amber", row.append("amber"))
    assert row.search("amber", 1, by="words")
    for by in ("meaning", "hybrid"):
        with pytest.raises(LtmError, match="needs an encoder"):
            row.search("amber", 1, by=by)
    with pytest.raises(LtmError, match="use one of hybrid, words, meaning"):
        row.search("amber", 1, by="magic")
    with pytest.raises(LtmError, match="1 or more"):
        row.search("amber", 0)
