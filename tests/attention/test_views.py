"""Views against the naive reference: outputs, log-sum-exp, gradients, grouped heads, masks, softcap."""

from __future__ import annotations

import pytest
import torch
from reference.attention import naive_attention

from ltm.attention import attend, merge_gate, merge_softmax

BATCH, HEADS, KV_HEADS, HEAD_DIM = 2, 4, 2, 8


def random_view(tokens: int, slots: int, own: bool, seed: int = 0):
    """Query, keys, values, mask in float64; `own`: keys chosen for each query token."""
    generator = torch.Generator().manual_seed(seed)

    def make(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (BATCH, HEADS, tokens, slots, HEAD_DIM) if own else (BATCH, KV_HEADS, slots, HEAD_DIM)
    mask = torch.rand(BATCH, HEADS if own else 1, tokens, slots, generator=generator) > 0.3
    mask[0, :, 0] = False  # a query that may see nothing
    return make(BATCH, HEADS, tokens, HEAD_DIM), make(*shape), make(*shape), mask


def as_lists(states: torch.Tensor, mask: torch.Tensor, tokens: int):
    """What each query may see, as nested lists of [slots, head_dim]."""
    group = HEADS // KV_HEADS
    mask = mask.expand(BATCH, HEADS, tokens, mask.shape[-1])

    def seen(b, h, t):
        own = states[b, h, t] if states.dim() == 5 else states[b, h // group]
        return own[mask[b, h, t]]

    return [[[seen(b, h, t) for t in range(tokens)] for h in range(HEADS)] for b in range(BATCH)]


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize(("tokens", "slots"), [(1, 1), (3, 63), (5, 100)])
def test_attend_equals_naive(tokens, slots, own, softcap):
    query, keys, values, mask = random_view(tokens, slots, own)
    fast = attend(query, keys, values, mask, 0.3, softcap)
    slow, lse = naive_attention(query, as_lists(keys, mask, tokens), as_lists(values, mask, tokens), 0.3, softcap)
    assert fast.output.abs().sum() > 0 or tokens == 1
    torch.testing.assert_close(fast.output, slow, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(fast.lse, lse, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_gradients_equal_naive(own):
    query, keys, values, mask = random_view(3, 7, own)
    gradients = []
    for path in ("fast", "slow"):
        q = query.clone().requires_grad_()
        if path == "fast":
            output = attend(q, keys, values, mask, 0.3).output
        else:
            output, _ = naive_attention(q, as_lists(keys, mask, 3), as_lists(values, mask, 3), 0.3)
        (output**2).sum().backward()
        gradients.append(q.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-10, rtol=1e-8)


def test_shared_softmax_over_two_views_is_one_softmax_over_both():
    query, keys, values, mask = random_view(4, 9, own=True)
    parts = [
        attend(query, keys[..., part, :], values[..., part, :], mask[..., part], 0.3)
        for part in (slice(0, 4), slice(4, 9))
    ]
    whole = attend(query, keys, values, mask, 0.3)
    torch.testing.assert_close(merge_softmax(parts), whole.output, atol=1e-12, rtol=1e-10)


def test_gate_mixes_per_head_and_leaves_queries_without_memory_local():
    query, keys, values, mask = random_view(4, 9, own=True)
    memory = attend(query, keys, values, mask, 0.3)
    local = torch.randn(BATCH, HEADS, 4, HEAD_DIM, dtype=torch.float64)
    gate = torch.tensor([0.0, 0.25, 0.75, 1.0], dtype=torch.float64)
    merged = merge_gate(local, memory, gate)
    torch.testing.assert_close(merged[1, 1, 2], 0.25 * local[1, 1, 2] + 0.75 * memory.output[1, 1, 2])
    torch.testing.assert_close(merged[0, :, 0], local[0, :, 0])  # nothing to see: all local
    torch.testing.assert_close(merged[:, 3], local[:, 3])  # closed gate


def test_heads_that_cannot_be_grouped_are_refused():
    with pytest.raises(ValueError, match="3 query heads cannot share 2"):
        attend(torch.randn(1, 3, 2, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4), None, 1.0)


def test_weights_are_a_softmax():
    query, keys, values, mask = random_view(4, 9, own=True)
    weights = attend(query, keys, values, mask, 0.3).weights
    sums = weights.sum(dim=-1)
    torch.testing.assert_close(sums[1], torch.ones_like(sums[1]))
    assert float(sums[0, :, 0].abs().max()) == 0.0
    assert bool((weights[~mask] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", ["none", "shared", "by head", "by slot"])
def test_attention_without_weights_is_the_same(dtype, mask):
    """The fused kernel, grouped heads, masks of every shape, and a query that sees nothing."""
    random = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 5, 8, generator=random).to(dtype)
    keys, values = (torch.randn(2, 3, 7, 8, generator=random).to(dtype) for _ in range(2))
    shapes = {"shared": (2, 1, 5, 7), "by head": (2, 6, 5, 7), "by slot": (2, 1, 1, 7)}
    chosen = None
    if mask != "none":
        chosen = torch.rand(shapes[mask], generator=random) < 0.6
        chosen[0, :, 0] = False
    slow = attend(query, keys, values, chosen, 0.4)
    fast = attend(query, keys, values, chosen, 0.4, weights=False)
    assert slow.weights is not None and fast.weights is None
    tolerance = {"atol": 2e-2, "rtol": 2e-2} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(fast.output, slow.output, **tolerance)
    torch.testing.assert_close(fast.lse, slow.lse, **tolerance)
    assert chosen is None or bool(torch.isneginf(fast.lse[0, :, 0]).all())
