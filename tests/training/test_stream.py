"""Segment-ordered batches: each document in order, once an epoch; weights, cuts, processes, resuming."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pytest
import torch
from conftest import make_documents
from fake_method import VOCAB, ByteTokenizer

from ltm.data.documents import Document
from ltm.errors import ConfigError, LtmError
from ltm.training import Corpus, SegmentStream
from ltm.training.order import DocumentOrder

LENGTHS = [41, 9, 23, 60, 17, 1, 8]


def make_stream(lengths=LENGTHS, **options) -> SegmentStream:
    return SegmentStream(Corpus([make_documents(lengths)]), ByteTokenizer(), **{"segment_size": 8, **options})


def expected_tokens(stream: SegmentStream, document: int) -> list[int]:
    return [ord(letter) % VOCAB for letter in stream.corpus[document].text]


def walk(stream: SegmentStream, steps: int) -> list[tuple[int, int, bool, list[int]]]:
    """(row, document, starts, tokens) of each segment, in order."""
    seen = []
    for _ in range(steps):
        batch = next(stream)
        for row, document in enumerate(batch.documents):
            ids = batch.input_ids[row][batch.attention_mask[row].bool()]
            seen.append((row, document, bool(batch.starts[row]), ids.tolist()))
    return seen


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_walk_documents_in_order(rows):
    stream = make_stream(rows=rows)
    read = defaultdict(list)  # row -> [document, tokens] in order
    for row, document, starts, ids in walk(stream, 60):
        assert 2 <= len(ids) <= 8
        if starts:
            read[row].append([document, []])
        assert read[row][-1][0] == document
        read[row][-1][1].extend(ids)
    whole = 0
    for row in range(rows):
        for document, ids in read[row][:-1]:
            tokens = expected_tokens(stream, document)
            # a last segment of one token has nothing to score and is left out
            assert ids == tokens[: len(tokens) - (len(tokens) % 8 == 1)]
            whole += 1
    assert whole > 2 * rows


def test_padding_is_on_the_right_and_not_scored():
    stream = make_stream([12, 40], rows=2)
    next(stream)
    batch = next(stream)
    short = batch.documents.index(0)
    assert batch.input_ids.shape == (2, 8)
    assert batch.attention_mask[short].tolist() == [1] * 4 + [0] * 4
    assert batch.labels[short, 4:].tolist() == [-100] * 4
    assert torch.equal(batch.labels[short, :4], batch.input_ids[short, :4])
    assert (batch.num_tokens, batch.num_scored) == (12, 3 + 7)


def test_batch_is_no_wider_than_its_longest_segment():
    assert next(make_stream([5, 3], rows=2)).input_ids.shape == (2, 5)


def test_every_epoch_has_each_document_once_in_a_new_order():
    order = DocumentOrder(Corpus([make_documents([5] * 20)]), seed=1)
    first, second = ([order[n] for n in range(start, start + 20)] for start in (0, 20))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and first != sorted(first)


def test_seed_decides_the_order():
    def start(seed):
        return walk(make_stream(seed=seed), 12)

    assert start(3) == start(3)
    assert start(3) != start(4)


def test_kinds_are_shuffled_without_weights():
    corpus = Corpus([make_documents([20] * 30, "a"), make_documents([20] * 10, "b")], ["a", "b"])
    order = DocumentOrder(corpus, seed=0)
    kinds = [corpus[order[n]].kind for n in range(40)]
    assert Counter(kinds) == {0: 30, 1: 10}
    assert len(set(kinds[:20])) == 2


def test_weights_share_the_text_seen():
    corpus = Corpus([make_documents([400] * 8, "long"), make_documents([40] * 8, "short")])
    order = DocumentOrder(corpus, seed=0, weights=[3, 1])
    chars = Counter()
    for n in range(400):
        document = corpus[order[n]]
        chars[document.kind] += document.num_chars
    assert chars[0] / chars[1] == pytest.approx(3, rel=0.1)
    kinds = [corpus[order[n]].kind for n in range(40)]
    assert kinds[:20] != kinds[20:]  # no fixed pattern


def test_weights_count_what_a_cut_leaves():
    corpus = Corpus([make_documents([4000] * 8, "long"), make_documents([400] * 8, "short")])
    order = DocumentOrder(corpus, seed=0, weights=[1, 1], max_tokens=100)
    assert Counter(corpus[order[n]].kind for n in range(100)) == {0: 50, 1: 50}


def test_weight_of_zero_leaves_a_kind_out_and_wrong_weights_are_refused():
    corpus = Corpus([make_documents([20] * 3, "a"), make_documents([20] * 3, "b")])
    order = DocumentOrder(corpus, seed=0, weights=[0, 2])
    assert {corpus[order[n]].kind for n in range(20)} == {1}
    for weights, words in (([1], "1 weights came for 2 kinds"), ([0, 0], "above 0"), ([1, -1], "0 or more")):
        with pytest.raises(ConfigError, match=words):
            DocumentOrder(corpus, seed=0, weights=weights)


def test_long_documents_are_cut_at_random_places():
    stream = make_stream([200], max_document_tokens=24)
    text, starts = expected_tokens(stream, 0), set()
    for _ in range(6):
        pieces = walk(stream, 3)
        assert [starts for _, _, starts, _ in pieces] == [True, False, False]
        cut = [token for _, _, _, ids in pieces for token in ids]
        places = [n for n in range(len(text) - 23) if text[n : n + 24] == cut]
        assert places
        starts.add(places[0])
    assert len(starts) > 3


def test_each_document_is_tokenized_once_when_it_is_reached():
    stream = make_stream([40, 40])
    assert stream.tokenizer.calls == []
    walk(stream, 5)
    assert len(stream.tokenizer.calls) == 1
    walk(stream, 1)
    assert len(stream.tokenizer.calls) == 2


def test_two_processes_with_one_row_see_what_one_with_two_rows_sees():
    together = walk(make_stream(rows=2), 40)
    for index in (0, 1):
        alone = make_stream(rows=1)
        alone.shard(index, 2)
        expected = [segment[1:] for segment in together if segment[0] == index]
        assert [segment[1:] for segment in walk(alone, 40)] == expected


@pytest.mark.parametrize("steps", [0, 1, 5, 23])
def test_resume_goes_on_mid_document(steps):
    options = {"rows": 2, "max_document_tokens": 30, "seed": 5}
    stream = make_stream(**options)
    walk(stream, steps)
    state = json.loads(json.dumps(stream.state_dict()))
    resumed = make_stream(**options)
    resumed.load_state_dict(state)
    assert walk(resumed, 30) == walk(stream, 30)
    assert len(json.dumps(state)) < 1000


def test_resume_refuses_other_data_and_settings():
    state = make_stream(rows=2).state_dict()
    for other in (
        make_stream([41, 9], rows=2),
        make_stream(rows=2, segment_size=16),
        make_stream(rows=2, seed=1),
    ):
        with pytest.raises(LtmError, match="cannot resume on other data or settings: .* was .*, is "):
            other.load_state_dict(state)
    moved = make_stream(rows=2)
    moved.shard(0, 2)
    with pytest.raises(LtmError, match="rows of all processes was 2, is 4"):
        moved.load_state_dict(state)


def test_texts_too_short_for_a_token_pair_are_refused():
    with pytest.raises(LtmError, match="fewer than 2 tokens"):
        next(make_stream([1, 1, 1]))
    with pytest.raises(LtmError, match="no documents"):
        Corpus([[]])
    with pytest.raises(LtmError, match="no tokenizer"):
        SegmentStream(Corpus([make_documents([5])]), None)


def test_corpus_from_paths_names_kinds_and_holds_texts_packed(tmp_path):
    for kind in ("books", "papers"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "train.txt").write_text(f"a text of {kind} é. " * 500)
    corpus = Corpus.from_paths([tmp_path / "books" / "train.txt", tmp_path / "papers" / "train.txt"])
    assert corpus.kind_names == ["books/train.txt", "papers/train.txt"]
    assert corpus[1].text == "a text of papers é. " * 500
    assert len(corpus[1].packed) < corpus[1].num_chars / 10
    assert corpus.of_kind(1) == [1]
    with pytest.raises(LtmError, match="does not exist"):
        Corpus.from_paths([tmp_path / "books", tmp_path / "nowhere"])


def test_fingerprint_tells_corpora_apart():
    def fingerprint(*texts):
        return Corpus([[Document("a", text, "") for text in texts]]).fingerprint

    assert fingerprint("ab", "c") == fingerprint("ab", "c")
    assert len({fingerprint("ab", "c"), fingerprint("a", "bc"), fingerprint("ab"), fingerprint("c", "ab")}) == 4
