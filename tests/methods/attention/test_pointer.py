"""The pointer's mixture, worked by hand, and what it finds before it is trained."""

from __future__ import annotations

import math

import pytest
import torch

import ltm.methods.attention.longmem.pointer as module
from ltm.methods.attention.longmem.pointer import LONGEST_RUN, Candidates, Copies, Pointer, Words
from ltm.methods.attention.longmem.window_reach import surroundings


def pointer(**starts):
    made = Pointer(num_kv_heads=1, head_dim=2, hidden_size=3)
    with torch.no_grad():
        for name, value in starts.items():
            getattr(made, name).copy_(torch.tensor(value))
    return made


def copies(weights, next_ids, runs=None):
    weights, ids = torch.tensor([weights]), torch.tensor([next_ids])
    return Copies(
        weights, torch.ones_like(weights), ids, torch.zeros_like(ids) if runs is None else torch.tensor([runs])
    )


def looked_at(made, queries, near):
    return made.weighed(made.similarity(queries, near), near.next_ids, near.runs)


def test_words_gather_the_slots_that_name_them():
    words = Words(torch.tensor([[5, 2, -1, 5], [-1, -1, -1, -1]]))
    assert words.ids.tolist() == [[-1, 2, 5, -1], [-1, -1, -1, -1]]
    values = torch.tensor([[0.1, 0.2, 9.0, 0.3], [1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(words.sum(values)[0, 1:], torch.tensor([0.2, 0.4, 0.0]))
    torch.testing.assert_close(words.most(values, -1.0)[0, 1:], torch.tensor([0.2, 0.3, -1.0]))
    assert words.word_of.tolist() == [[2, 1, 0, 2], [0, 0, 0, 0]]


def test_the_mixture_by_hand():
    """odds = exp(2 * (1 - 1)) = 1, so lambda = 1/2; copies: 3/4 of token 2 (twice named), 1/4 of token 0."""
    made = pointer(evidence=[2.0, 0.0, 0.0, 0.0, 0.0, 0.0], threshold=[1.0])
    logits = torch.tensor([[[0.1, 0.2, 0.4, 0.3]]]).log()
    mixed, shares = made.mix(logits, torch.zeros(1, 1, 3), copies([[0.5, 0.25, 0.25]], [[2, 0, 2]]))
    torch.testing.assert_close(shares, torch.tensor([[[0.25, 0.125, 0.125]]]))
    expected = torch.tensor([0.5 * 0.1 + 0.5 * 0.25, 0.5 * 0.2, 0.5 * 0.4 + 0.5 * 0.75, 0.5 * 0.3])
    torch.testing.assert_close(torch.softmax(mixed[0, 0], dim=-1), expected, atol=1e-6, rtol=1e-6)


def test_a_word_has_odds_of_its_own():
    """A network that doubles the odds of words whose longest run is 0: here token 1's, not token 2's (run 3)."""
    made = pointer(evidence=[0.0] * 6)
    with torch.no_grad():
        made.word_in.weight.zero_(), made.word_in.bias.fill_(-50.0)  # gelu(-50) = 0
        made.word_in.weight[0, 3], made.word_in.bias[0] = 50.0, 0.0  # figure 3: no run at all; gelu(50) = 50
        made.word_out.weight[0, 0] = math.log(2) / 50
    logits = torch.full((1, 1, 4), 0.25).log()
    mixed, shares = made.mix(logits, torch.zeros(1, 1, 3), copies([[0.5, 0.5]], [[1, 2]], [[0, 3]]))
    weights = torch.tensor([0.25, 0.25 + 2 * 0.5, 0.25 + 0.5, 0.25])
    torch.testing.assert_close(torch.softmax(mixed[0, 0], dim=-1), weights / weights.sum())
    torch.testing.assert_close(shares[0, 0], torch.tensor([0.5 * 2 / 3, 0.5 * 1 / 2]))


def test_longer_runs_weigh_more_where_they_should():
    made = pointer(share=[0.0])
    with torch.no_grad():
        made.run_bias[2] = math.log(3.0)
    same = torch.ones(1, 1, 1, 2, 2)
    near = Candidates(same, torch.tensor([[[4, 7]]]), torch.tensor([[[0, 2]]]))
    weights = looked_at(made, made.unit_queries(torch.ones(1, 1, 1, 2)), near).weights
    torch.testing.assert_close(weights, torch.tensor([[[0.25, 0.75]]]))


def test_blocks_of_candidates_are_as_all_at_once(monkeypatch):
    made = Pointer(num_kv_heads=3, head_dim=4, hidden_size=3)
    near = Candidates(
        torch.randn(2, 3, 7, 5, 4, dtype=torch.bfloat16),
        torch.randint(-1, 9, (2, 7, 5)),
        torch.randint(0, LONGEST_RUN, (2, 7, 5)),
    )
    present, found = torch.randn(2, 3, 7, 4), []
    for size in (2**12, 30, 1):  # all tokens, three, one at a time
        monkeypatch.setattr(module, "BLOCK_IN_CACHE", size)
        made.zero_grad()
        copied = looked_at(made, made.unit_queries(present), near)
        (copied.weights**2).sum().backward()
        found.append((copied.weights.detach(), copied.similarity.detach(), made.query.grad, made.share.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_all_keys_of_a_window_are_compared_as_candidates_are():
    made = Pointer(num_kv_heads=3, head_dim=4, hidden_size=3)
    with torch.no_grad():
        made.share.copy_(torch.tensor([0.3, -0.2, 0.1])), made.center.fill_(0.2)
    keys, queries = torch.randn(2, 3, 9, 4), made.unit_queries(torch.randn(2, 3, 5, 4))
    ids = torch.zeros(2, 5, 9, dtype=torch.long)
    apart = made.similarity(queries, Candidates(keys[:, :, None].expand(-1, -1, 5, -1, -1), ids, ids))
    torch.testing.assert_close(made.similarity_to_all(queries, keys), apart)


def test_a_word_of_the_window_is_trusted_less_in_proportion():
    """Token 1 by half from the window: its odds are exp(-0.25) of what they would be; token 3 wholly: exp(-0.5)."""
    made = pointer(evidence=[0.0] * 6)
    seen = copies([[0.25, 0.5, 0.25]], [[1, 3, 1]])._replace(num_within=2)
    mixed, _ = made.mix(torch.full((1, 1, 4), 0.25).log(), torch.zeros(1, 1, 3), seen)
    weights = torch.tensor([0.25, 0.25 + 0.5 * math.exp(-0.25), 0.25, 0.25 + 0.5 * math.exp(-0.5)])
    torch.testing.assert_close(torch.softmax(mixed[0, 0], dim=-1), weights / weights.sum())


def test_without_successors_nothing_changes():
    made = pointer(evidence=[0.0] * 6)
    logits, ids = torch.randn(1, 2, 5), torch.tensor([[[-1, -1, -1], [-1, 3, -1]]])
    near = Candidates(torch.randn(1, 1, 2, 3, 2), ids, torch.zeros_like(ids))
    copied = looked_at(made, made.unit_queries(torch.randn(1, 1, 2, 2)), near)
    mixed, shares = made.mix(logits, torch.zeros(1, 2, 3), copied)
    assert torch.equal(mixed[0, 0], logits[0, 0]) and shares[0, 0].tolist() == [0.0, 0.0, 0.0]
    assert (mixed[0, 1] != logits[0, 1]).nonzero().flatten().tolist() == [3]
    assert copied.weights[0, 1].tolist() == [0.0, 1.0, 0.0]


def test_token_zero_is_a_token():
    """A slot without successor is padded with id 0 inside; it must not hide a true successor 0."""
    made = pointer(evidence=[0.0] * 6)
    mixed, _ = made.mix(torch.zeros(1, 1, 4), torch.zeros(1, 1, 3), copies([[0.0, 1.0]], [[-1, 0]]))
    torch.testing.assert_close(torch.softmax(mixed[0, 0], -1), torch.tensor([0.625, 0.125, 0.125, 0.125]))


def test_surroundings_are_what_came_before_and_after():
    ids = torch.tensor([[1, 2, 7, 8, 9], [3, 0, 0, 5, 6]])
    mask = torch.tensor([[True] * 5, [True, False, False, True, True]])
    recent, following = surroundings(ids, mask)
    assert recent.shape == (2, 5, LONGEST_RUN)
    assert recent[0, -2:, :6].tolist() == [[8, 7, 2, 1, -1, -1], [9, 8, 7, 2, 1, -1]]
    assert recent[1, -2:, :4].tolist() == [[5, 3, -1, -1], [6, 5, 3, -1]]
    assert recent[1, 1].unique().tolist() == [-1]
    assert following.tolist() == [[2, 7, 8, 9, -1], [5, -1, -1, 6, -1]]


def test_a_repetition_is_found_before_training():
    """Calibrated, with the identity as query map: the same key again points to itself, whatever the common centre."""
    generator = torch.Generator().manual_seed(0)
    made = Pointer(num_kv_heads=2, head_dim=16, hidden_size=3)
    keys = torch.randn(1, 2, 40, 16, generator=generator) + 30 * torch.randn(1, 2, 1, 16, generator=generator)
    assert not made.is_calibrated
    made.calibrate(keys, torch.ones(1, 40, dtype=torch.bool))
    assert made.is_calibrated
    queries = made.unit_queries(keys)
    scores = torch.einsum("bhqd,bhkd->bqk", made.search_queries(queries), keys)
    assert torch.equal(scores.argmax(dim=-1)[0], torch.arange(40))
    ids = torch.arange(40).expand(1, 40, 40)
    near = Candidates(keys[:, :, None].expand(-1, -1, 40, -1, -1), ids, torch.zeros_like(ids))
    assert float(looked_at(made, queries, near).similarity.detach().amax(dim=-1).min()) == pytest.approx(1.0, abs=1e-4)
