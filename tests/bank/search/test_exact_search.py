"""The fast search against the slow one in float64, at awkward sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.search import naive_search

from ltm.bank import exact_search
from ltm.bank.search import exact as search_module
from ltm.bank.search.select import DIRECT, GROUP, column_top_k, grouped_top_k


@pytest.mark.parametrize("chunks", [1, 63, 100])
@pytest.mark.parametrize("tokens", [1, 63, 100])
@pytest.mark.parametrize("heads", [2, 6])
def test_search_is_the_reference(chunks, tokens, heads):
    kv_heads, top_k = 2, min(16, chunks)
    random = torch.Generator().manual_seed(chunks * tokens)
    queries = torch.randn(heads, tokens, 8, generator=random)
    keys = torch.randn(kv_heads, chunks, 8, generator=random)
    expected_scores, expected = naive_search(queries, keys, top_k)
    assert len(expected.unique()) > 1 or chunks == 1
    scores, indices = exact_search(queries.view(kv_heads, -1, 8), keys, top_k)
    assert torch.equal(indices.view(heads, tokens, top_k), expected)
    torch.testing.assert_close(scores.view(heads, tokens, top_k).double(), expected_scores, atol=1e-5, rtol=1e-5)


def test_the_reference_keeps_to_its_head():
    keys = torch.tensor([[[1.0], [2.0]], [[5.0], [3.0]]])  # [kv_heads, chunks, head_dim]
    scores, indices = naive_search(torch.tensor([1.0, -1.0, 2.0, -2.0]).view(4, 1, 1), keys, 2)
    assert indices[:, 0].tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    assert scores[:, 0].tolist() == [[2, 1], [-1, -2], [10, 6], [-6, -10]]


@pytest.mark.parametrize("count", [3, 77])  # decoding's way and reading's
def test_blocks_parts_and_groups_change_nothing(monkeypatch, count):
    random = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, count, 8, generator=random), torch.randn(2, DIRECT * 2 + 5, 8, generator=random)
    expected = naive_search(queries[:, :3], keys, 5)[1]
    whole = exact_search(queries, keys, 5)
    assert torch.equal(whole[1][:, :3], expected)
    in_parts = exact_search(queries, keys.split([7, DIRECT, DIRECT - 2], dim=1), 5)
    assert torch.equal(whole[1], in_parts[1])
    monkeypatch.setattr(search_module, "KEY_BLOCK", {"cpu": 100, "cuda": 100})
    monkeypatch.setattr(search_module, "QUERY_BLOCK", 10)
    monkeypatch.setattr(search_module, "MOST_QUERIES", 10)
    for parts in (keys, keys.split([7, DIRECT, DIRECT - 2], dim=1)):
        assert torch.equal(whole[1], exact_search(queries, parts, 5)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [0.0, -100.0])  # all negative: bf16 cannot be compared as int16
@pytest.mark.parametrize("count", [3, 40])
def test_every_dtype_and_sign(dtype, shift, count):
    random = torch.Generator().manual_seed(1)
    keys = torch.randn(1, 3 * DIRECT, 4, generator=random)
    keys[:, :, 0] = shift
    queries = torch.randn(1, count, 4, generator=random).abs().to(dtype)
    scores, indices = exact_search(queries, keys.to(dtype), 9)
    expected = torch.bmm(queries, keys.to(dtype).transpose(1, 2)).topk(9, dim=-1).values
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-2 if dtype != torch.float32 else 1e-5)
    assert bool((scores < 0).any()) == (shift < 0)
    assert all(len(set(found)) == 9 for found in indices[0].tolist())


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(DIRECT + 1, DIRECT * 20),
    top_k=st.integers(1, 40),
    levels=st.integers(2, 1000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    rows=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_grouped_top_k_is_top_k(n, top_k, levels, dtype, rows, seed):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels, (rows, n), generator=random).to(dtype)  # many ties
    for best, indices in (grouped_top_k(scores, top_k), column_top_k(scores.T.contiguous(), top_k)):
        assert torch.equal(best, scores.topk(top_k, dim=-1).values)
        assert torch.equal(scores.gather(1, indices), best)
        assert all(len(set(row)) == top_k for row in indices.tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("n", "top_k", "levels", "shift"),
    [
        (8000, 5, 3000, 0),  # members of the best groups, of two levels
        (8000, 5, 3000, -9000),  # all below 0
        (8007, 3, 40, 0),  # many reach the bound, some are in no group
        (3000, 300, 3000, 0),  # all are compared
        (3000, 300, 3000, -9000),
        (3000, 5, 1, 0),  # all are equal
        (90, 40, 9, 0),  # few
    ],
)
def test_of_equal_scores_in_columns_the_first_win(n, top_k, levels, shift, dtype):
    random = torch.Generator().manual_seed(n)
    scores = (torch.randint(-levels, levels, (n, 4), generator=random) + shift).to(dtype)
    scores[-1, 1:] = levels + shift  # the best
    before = scores.clone()
    best, indices = column_top_k(scores, top_k)
    expected = scores.double().T.sort(dim=1, descending=True, stable=True)
    assert torch.equal(scores, before)
    assert torch.equal(best.double(), expected.values[:, :top_k])
    assert torch.equal(indices, expected.indices[:, :top_k])


def test_the_groups_are_used():
    """The sizes above reach the grouped path, and twice in the largest."""
    assert DIRECT < (DIRECT * 20 // GROUP) and DIRECT // GROUP > 40
