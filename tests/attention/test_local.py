"""A plugin may compute a layer's attention over the cache's own keys; it alone, and only where it is named."""

from __future__ import annotations

import pytest
import torch

from ltm.attention import Plugin, View, attach


class Local(Plugin):
    """Local attention times `factor`; None leaves it."""

    def __init__(self, factor, layers=(2,)):
        self.local_layers, self.factor, self.asked = layers, factor, []

    def attend_local(self, layer, local):
        self.asked.append((layer, tuple(local.query.shape), tuple(local.key.shape)))
        return None if self.factor is None else self.factor * local.output()


class Shared(Plugin):
    viewed_layers = (2,)

    def views(self, layer, query):
        keys = torch.ones(len(query), 2, 1, query.shape[-1])
        return (View(keys, keys),)


class Watcher(Plugin):
    """Notes how much of each softmax the local keys have."""

    viewed_layers, watches_local = (2,), True

    def __init__(self):
        self.shares = []

    def attended(self, layer, local, lse):
        self.shares.append(torch.exp(local.partial().lse - lse))


@pytest.fixture
def logits(tiny_backbone):
    backbone = tiny_backbone("tiny-llama")
    ids = torch.arange(5, 12)[None]

    def run(*plugins):
        with attach(backbone.view, *plugins), torch.no_grad():
            return backbone.model(ids).logits

    return run


def test_what_a_plugin_returns_takes_the_place_of_local_attention(logits):
    plain, plugin = logits(), Local(1.0)
    assert torch.equal(logits(plugin), plain)
    assert plugin.asked == [(2, (1, 4, 7, 16), (1, 2, 7, 16))]
    assert float((logits(Local(0.5)) - plain).abs().max()) > 1e-3
    assert torch.equal(logits(), plain)


def test_none_leaves_the_layer_as_it_is(logits):
    assert torch.equal(logits(Local(None)), logits())
    assert torch.equal(logits(Local(None), Local(0.5)), logits(Local(0.5)))


def test_two_ways_of_it_or_another_that_needs_its_softmax_are_refused(logits):
    for plugins in ((Local(0.5), Local(0.5)), (Local(0.5), Shared()), (Local(0.5), Watcher())):
        with pytest.raises(RuntimeError, match="layer 2: one plugin may compute local attention"):
            logits(*plugins)
    assert float((logits(Local(None), Shared()) - logits()).abs().max()) > 1e-3


def test_who_watches_is_told_the_softmax_that_views_share(logits):
    alone, beside = Watcher(), Watcher()
    torch.testing.assert_close(logits(Local(None), alone), logits())
    torch.testing.assert_close(logits(beside, Shared()), logits(Shared()))
    torch.testing.assert_close(alone.shares[0], torch.ones(1, 4, 7))
    assert float(beside.shares[0].max()) < 1 and float(beside.shares[0].min()) > 0
