"""What tokens get of attention, from the log-sum-exp that a kernel tells."""

from __future__ import annotations

import pytest
import torch

from ltm.attention import attend, merge_softmax
from ltm.attention.received import asking_columns, attention_weights


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_weights_are_those_of_the_softmax(softcap, kv_heads):
    torch.manual_seed(0)
    query = torch.randn(2, 4, 3, 8, dtype=torch.float64)
    keys, values = torch.randn(2, 2, kv_heads, 7, 8, dtype=torch.float64)
    seen = torch.rand(2, 1, 3, 7) < 0.6
    seen[0, :, 1] = False  # a query that sees nothing
    partial = attend(query, keys, values, seen, 0.3, softcap)
    weights = attention_weights(query, keys, partial.lse, seen, 0.3, softcap)
    torch.testing.assert_close(weights, partial.weights)
    expected = seen.any(dim=-1).double().expand(2, 4, 3)
    torch.testing.assert_close(weights.sum(dim=-1), expected)


def test_keys_that_share_a_softmax_with_others_get_their_share():
    """With the log-sum-exp of all, the weights of two parts sum to one and give the merged output."""
    torch.manual_seed(1)
    query, first, second = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, 6, 4)
    parts = [attend(query, keys, keys, None, 0.5) for keys in (first, second)]
    lse = torch.logsumexp(torch.stack([part.lse for part in parts]), dim=0)
    weights = [attention_weights(query, keys, lse, None, 0.5) for keys in (first, second)]
    torch.testing.assert_close(torch.cat(weights, dim=-1).sum(dim=-1), torch.ones(1, 2, 3))
    output = weights[0] @ first + weights[1] @ second
    torch.testing.assert_close(output, merge_softmax(parts))


def test_columns_of_which_some_row_asks():
    asking = torch.tensor([[True, False, False, False], [False, False, True, False]])
    assert asking_columns(asking).tolist() == [0, 2] and asking_columns(asking & False).tolist() == []
