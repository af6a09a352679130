"""Batched scores and answers against the slow way: one prompt at a time, a forward of its own for each continuation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ltm.backbone import load_backbone
from ltm.errors import LtmError
from ltm.methods import create_method
from ltm.tasks import scoring
from ltm.tasks.scoring import _stems, greedy_tokens, score_continuations, shared_length, start_tokens

METHODS = {
    "full": {},
    "window": {"local_window": 24},  # smaller than past and prompt: windows fill on the way
    "sinks": {"local_window": 24, "num_sinks": 2},
    "longmem": {
        "reduction_factor": 2,
        "chunk_size": 4,
        "retrieved_tokens": 8,
        "segment_size": 16,
        "local_window": 24,
        "start": "paper",
    },
}
VOCAB = 90


@pytest.fixture(params=sorted(METHODS))
def method(request, tiny_backbone):
    torch.manual_seed(0)
    return create_method(request.param, tiny_backbone("tiny-llama"), **METHODS[request.param]).eval()


def ids(length, seed):
    return torch.randint(5, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def read(method, length=40):
    method.reset()
    method.read(torch.tensor([ids(length, seed=99)]), memory_rows=torch.tensor([0]))


def prompts(shared=13):
    """Some that begin alike and go on at different lengths, so that windows fill at different places of each."""
    return [ids(shared, seed=1) + ids(length, seed=length) for length in (3, 1, 9, 14, 3, 21)]


def continuations():
    return [[[7], [8, 9], [8, 9, 10], [11]], [[7], [8]], [[5, 6, 7]], [[7, 8], [9, 8]], [[7], [9]], [[8], [7, 7]]]


def slow_score(method, prompt, candidate):
    """The whole text in one forward of its own."""
    with torch.no_grad():
        logits = method(torch.tensor([[*prompt, *candidate]]), memory_rows=[0]).logits[0].double()
    places = range(len(prompt) - 1, len(prompt) + len(candidate) - 1)
    log_probabilities = logits.log_softmax(-1)
    return sum(float(log_probabilities[place, token]) for place, token in zip(places, candidate, strict=True))


@pytest.mark.parametrize("past", [0, 40])
@pytest.mark.parametrize("shared", [0, 13])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_batched_scores_equal_one_forward_for_each(method, past, shared, batch_size):
    if past:
        read(method, past)
    texts, candidates = prompts(shared), continuations()
    scored = score_continuations(method, texts, candidates, batch_size=batch_size)
    for prompt, own, result in zip(texts, candidates, scored, strict=True):
        with torch.no_grad():
            last = method(torch.tensor([prompt]), memory_rows=[0]).logits[0, -1]
        assert result.next_token == int(last.argmax())
        expected = [slow_score(method, prompt, candidate) for candidate in own]
        assert result.log_likelihoods == pytest.approx(expected, abs=2e-4)  # float32 sums in another order
    method.reset()


def test_what_was_read_changes_the_scores(method):
    before = score_continuations(method, prompts(), continuations())
    read(method)
    after = score_continuations(method, prompts(), continuations())
    method.reset()
    assert max(abs(a.log_likelihoods[0] - b.log_likelihoods[0]) for a, b in zip(before, after, strict=True)) > 1e-3


def test_scoring_leaves_the_memory_as_it_was(method):
    read(method)
    first = score_continuations(method, prompts(), continuations())
    assert score_continuations(method, prompts(), continuations()) == first
    method.reset()


@pytest.mark.parametrize("past", [0, 40])
def test_greedy_batches_equal_generate_one_at_a_time(method, past):
    if past:
        read(method, past)
    texts = prompts()
    batched = greedy_tokens(method, texts, 12, batch_size=4)
    for prompt, answer in zip(texts, batched, strict=True):
        whole = method.generate(
            torch.tensor([prompt]), memory_rows=[0], max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert answer == whole[0, len(prompt) :].tolist()
    method.reset()


def test_a_stop_token_ends_its_row_alone(method):
    free = greedy_tokens(method, prompts(), 8)
    stop = free[0][2]
    stopped = greedy_tokens(method, prompts(), 8, stop=[stop])
    for row, answer in zip(free, stopped, strict=True):
        end = row.index(stop) + 1 if stop in row else len(row)
        assert answer == row[:end]


def test_a_small_cache_budget_changes_the_batches_and_not_the_scores(tiny_backbone, monkeypatch):
    method = create_method("full", tiny_backbone("tiny-llama"))
    sizes = []
    forward = method.forward
    monkeypatch.setattr(method, "forward", lambda ids, **kwargs: (sizes.append(len(ids)), forward(ids, **kwargs))[1])
    roomy = score_continuations(method, prompts(), continuations())
    assert max(sizes) > 1
    sizes.clear()
    monkeypatch.setattr(scoring, "CACHE_BYTES", 1)
    tight = score_continuations(method, prompts(), continuations())
    assert set(sizes) == {1}
    for a, b in zip(roomy, tight, strict=True):
        assert a.log_likelihoods == pytest.approx(b.log_likelihoods, abs=1e-4)


def test_what_prompts_share_is_run_once(tiny_backbone, monkeypatch):
    method = create_method("full", tiny_backbone("tiny-llama"))
    tokens = []
    forward = method.forward
    monkeypatch.setattr(
        method, "forward", lambda ids, **kwargs: (tokens.append(ids.numel()), forward(ids, **kwargs))[1]
    )
    score_continuations(method, [[*ids(50, seed=3), last] for last in (5, 6, 7)], [[[8], [9]]] * 3)
    assert tokens == [50, 3]


def test_few_columns_get_logits(tiny_backbone, monkeypatch):
    method = create_method("full", tiny_backbone("tiny-llama"))
    asked = []
    forward = method.forward
    monkeypatch.setattr(
        method, "forward", lambda ids, **kwargs: (asked.append(kwargs["logits_to_keep"]), forward(ids, **kwargs))[1]
    )
    texts = [ids(20, seed=3) + ids(length, seed=length) for length in (12, 4)]
    score_continuations(method, texts, [[[8], [9]]] * 2)
    assert asked == [1, 1]  # of what all share, then of rows that end at the same column


def test_shared_length():
    assert shared_length([[1, 2, 3], [1, 2, 4, 5], [1, 2]]) == 2
    assert shared_length([[1, 2, 9], [1, 2, 3, 7], [1, 2, 5]]) == 2
    assert shared_length([[1], [2]]) == 0
    assert shared_length([[4, 5]]) == 2


def test_stems_are_the_fewest_rows_that_score_all():
    assert _stems([[1], [2], [3]]) == [()]
    assert _stems([[1], [2, 3], [2, 4, 5], [7, 8]]) == [(2, 4), (7,)]  # [1] and [2, 3] are scored on the way
    assert _stems([[1, 2], [3, 4]]) == [(1,), (3,)]


def test_empty_prompts_and_continuations_are_refused(method):
    with pytest.raises(LtmError, match="prompt is empty"):
        score_continuations(method, [[]], [[[1]]])
    with pytest.raises(LtmError, match="continuation is empty"):
        score_continuations(method, [[1]], [[[1], []]])
    assert score_continuations(method, [], []) == []


def test_start_tokens_are_what_the_tokenizer_begins_with():
    class Tokenizer(SimpleNamespace):
        def __call__(self, text, **kwargs):
            return {"input_ids": self.ids}

    assert start_tokens(Tokenizer(bos_token_id=1, ids=[1, 2])) == [1]
    assert start_tokens(Tokenizer(bos_token_id=1, ids=[])) == []
    assert start_tokens(Tokenizer(bos_token_id=None, ids=[3])) == []


def test_sliding_windows_of_the_backbone_are_kept():
    method = create_method("window", load_backbone("tiny-mistral"), local_window=24)
    texts, candidates = prompts(), continuations()
    scored = score_continuations(method, texts, candidates)
    for prompt, own, result in zip(texts, candidates, scored, strict=True):
        assert result.log_likelihoods == pytest.approx([slow_score(method, prompt, c) for c in own], abs=2e-4)
