"""The n-gram cache against its naive reference, its counts by hand, its bank of token ids, and what it mixes with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.ngram import naive_ngram

from ltm.bank import Bank
from ltm.errors import BankMismatchError, ConfigError, LtmError
from ltm.methods import create_method, load_method
from ltm.methods.baselines.ngram import NGram, NGramConfig
from ltm.methods.baselines.ngram.counts import BREAK, count_bucket, shares, suffix_matches
from ltm.methods.baselines.ngram.weights import WEIGHTS
from ltm.text.session import Session

SMALL = {"max_length": 5, "memory_size": 40, "local_window": 12, "stride": 12}


def build(tiny_backbone, dtype="float64", **options):
    return NGram(tiny_backbone("tiny-llama", dtype), NGramConfig(**{**SMALL, **options})).eval()


def tokens(rows, length, seed=0, words=4):
    """Few words, so that suffixes of all lengths come again."""
    return torch.randint(5, 5 + words, (rows, length), generator=torch.Generator().manual_seed(seed))


def scored(method, ids, **kwargs):
    with torch.no_grad():
        return method(ids, **kwargs).logits


@pytest.mark.parametrize("window_counts", [True, False])
@pytest.mark.parametrize("read", [0, 21, 63])
@pytest.mark.parametrize("length", [1, 20, 45])
def test_fast_path_equals_the_naive_reference(tiny_backbone, window_counts, read, length):
    """What was read and evicted, what left the window, what stands in it; two rows."""
    method = build(tiny_backbone, window_counts=window_counts)
    past, ids = tokens(2, max(read, 1), seed=7), tokens(2, length)
    with method.memory_off():
        alone = scored(method, ids).softmax(dim=-1)
    if read:
        method.read(past)
    mixed = scored(method, ids).softmax(dim=-1)
    assert read + length == 1 or float((mixed - alone).abs().max()) > 1e-3
    for row in range(2):
        remembered = past[row, -40:].tolist() if read else []
        for end in range(length):
            present = ids[row, : end + 1].tolist()
            gone = 12 * (end // 12)  # a full window is emptied when the next token comes
            counted = present[:gone][-40:] + present[gone:] if window_counts else present[:gone][-40:]
            expected = naive_ngram([remembered, counted], present, alone[row, end].tolist(), 5)
            torch.testing.assert_close(mixed[row, end], torch.tensor(expected, dtype=mixed.dtype), atol=1e-9, rtol=1e-7)


def test_matches_by_hand():
    text = np.array([9, 7, 8, 1, BREAK, 7, 8, 2, 7, 8])
    places, lengths = suffix_matches(text, end=9, known=9, max_length=16)
    assert places.tolist() == [2, 6] and lengths.tolist() == [2, 2]  # neither goes over the break
    places, lengths = suffix_matches(text, end=9, known=9, max_length=1)
    assert lengths.tolist() == [1, 1]
    assert suffix_matches(np.array([5, 3, BREAK, 3]), 3, 3, 4)[0].tolist() == []  # the last word before it: no follower


def test_shares_are_one_together():
    lengths = np.array([3, 1, 1, 2, 3])
    weights = np.random.default_rng(0).random((4, 3)) * 0.9
    model, places = shares(lengths, weights)
    assert model > 0 and np.isclose(model + places.sum(), 1)
    assert places[0] > places[3] > places[1]  # what agrees for longer weighs more


def test_buckets_double():
    counts = np.array([1, 2, 3, 4, 5, 8, 9, 16, 17, 1000])
    assert count_bucket(counts, 6).tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_the_weights_that_are_shipped():
    assert len(WEIGHTS) == 16 and {len(row) for row in WEIGHTS} == {6}
    assert all(0 < weight < 1 for row in WEIGHTS for weight in row)


def test_a_repetition_is_predicted(tiny_backbone):
    """A passage that was read once and begins again goes on as it did."""
    method, passage = build(tiny_backbone, max_length=16, memory_size=400), tokens(1, 60, words=80)
    before = scored(method, passage[:, :20])[0, -1].log_softmax(-1)[passage[0, 20]]
    method.read(passage)
    after = scored(method, passage[:, :20])[0, -1].log_softmax(-1)[passage[0, 20]]
    assert float(after - before) > 3


def test_the_bank_holds_token_ids_alone(tiny_backbone, tmp_path):
    method, ids = build(tiny_backbone), tokens(2, 7)
    method.read(tokens(2, 60, seed=3))
    assert method.bank.layers == () and method.bank.num_tokens(0) == 40
    assert method.bank.nbytes / 80 <= 28
    method.bank.save(tmp_path / "bank")
    Bank.verify(tmp_path / "bank")
    other = build(tiny_backbone)
    other.use_bank(Bank.load(tmp_path / "bank"))
    assert torch.equal(scored(other, ids), scored(method, ids))


def test_a_deleted_document_leaves_no_trace(tiny_backbone):
    method, other = build(tiny_backbone), build(tiny_backbone)
    one, two, ids = tokens(1, 11, seed=1), tokens(1, 13, seed=2), tokens(1, 9)
    method.use_bank(method.new_bank(1))
    documents = [method.bank.add_document(name) for name in ("one", "two")]
    for document, text in zip(documents, (one, two), strict=True):
        method.read(text, documents=[document])
    with_both = scored(method, ids)
    method.bank.delete_document(documents[0])
    other.read(two)
    assert not torch.equal(scored(method, ids), with_both)
    assert torch.equal(scored(method, ids), scored(other, ids))


def test_banks_of_keys_are_refused(tiny_backbone):
    method = build(tiny_backbone)
    longmem = create_method("longmem", method.backbone, reduction_factor=2)
    with pytest.raises(BankMismatchError, match=r"layers: bank \d, model none"):
        method.use_bank(longmem.new_bank(1))
    with pytest.raises(BankMismatchError, match=r"layers: bank none, model \d"):
        longmem.use_bank(Bank(longmem.new_bank(1).config, num_rows=1, num_kv_heads=2, head_dim=8, layers=()))


def test_it_mixes_with_another_method_whose_memory_is_off(tiny_backbone, tmp_path):
    """The SideNet's words, never what its own memory would have given."""
    backbone = tiny_backbone("tiny-llama", "float32")
    torch.manual_seed(0)
    sidenet = create_method("longmem", backbone, reduction_factor=2, local_window=12, stride=12, start="paper").eval()
    sidenet.save_pretrained(tmp_path / "sidenet")
    method = build(tiny_backbone, "float32", inner=str(tmp_path / "sidenet"))
    ids = tokens(2, 30)
    with sidenet.memory_off():
        expected = scored(sidenet, ids)
    with method.memory_off():
        torch.testing.assert_close(scored(method, ids), expected)
    mixed = scored(method, ids).softmax(dim=-1)
    for row, end in ((0, 5), (1, 29)):
        present, words = ids[row, : end + 1].tolist(), expected[row, end].softmax(dim=-1)
        own = naive_ngram([present], present, words.tolist(), 5)
        torch.testing.assert_close(mixed[row, end], torch.tensor(own), atol=1e-6, rtol=1e-4)


def test_the_trace_names_what_was_copied_after(tiny_backbone):
    method, past = build(tiny_backbone, memory_size=400), tokens(1, 50, words=40)
    method.read(past)
    with method.trace() as trace:
        scored(method, past[:, 10:20])
    used = trace.tokens(0)
    assert len(used) == 10 and used[-1][0].slot == 19
    assert 0 < sum(chunk.weight for chunk in used[-1]) < 1


def test_weights_of_ones_own_are_saved_and_loaded(tiny_backbone, tmp_path):
    method, ids = build(tiny_backbone, "float32"), tokens(1, 20)
    method.weights = np.full_like(method.weights, 0.25)
    method.save_pretrained(tmp_path)
    loaded = load_method(method.backbone, tmp_path)
    assert np.array_equal(loaded.weights, method.weights)
    torch.testing.assert_close(scored(loaded, ids), scored(method, ids))
    with pytest.raises(LtmError, match=r"weights: \[4, 6\] from 0 to 1"):
        load_method(method.backbone, tmp_path, max_length=4)


def test_a_session_reads_asks_and_names_passages():
    session = Session.open(backbone="tiny-llama", method="ngram")
    session.read("The ferry leaves at noon. " * 3, "ferry.txt")
    answer = session.continue_text("The ferry", trace=True, max_new_tokens=3)
    assert answer.passages and answer.passages[0].document == "ferry.txt"


def test_configs_that_cannot_be_are_refused(tiny_backbone):
    with pytest.raises(ConfigError, match="max_length=17; use 16 or less"):
        NGramConfig(max_length=17)
    with pytest.raises(ConfigError, match="stride=13"):
        NGramConfig(local_window=12, stride=13)
    with pytest.raises(LtmError, match="no/such/place"):
        build(tiny_backbone, inner="no/such/place")
