"""What the tests of cache rules share."""

from __future__ import annotations

import torch

from ltm.streams.kept import KeptLayer


def hold(places, kv_heads=2, head_dim=4):
    """A layer that holds one row's tokens at these places."""
    held = KeptLayer()
    states = torch.randn(1, kv_heads, len(places), head_dim, dtype=torch.float64)
    held.append(states, states, torch.tensor([places]))
    return held


def check_against_reference(method, naive, num_tokens=13):
    """Logits, the places that every head kept, and the gradient of a projection of keys, which are held for long."""
    ids = torch.randint(5, 90, (1, num_tokens), generator=torch.Generator().manual_seed(num_tokens))
    weight = method.backbone.view.layers[1].self_attn.k_proj.weight
    found, gradients = [], []
    weight.requires_grad_(True)
    try:
        cache = method.new_cache()
        for logits in (method(ids, cache=cache).logits[0], naive.logits(ids[0])):
            found.append(logits.detach())
            weight.grad = None
            logits.square().mean().backward()
            gradients.append(weight.grad)
    finally:
        weight.requires_grad_(False)
        weight.grad = None
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)
    kept = [[[slot.place for slot in slots] for slots in heads] for heads in naive.kept]
    assert [part.place[0].tolist() for part in cache.kept.parts] == kept
