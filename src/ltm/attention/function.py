"""The attention function that transformers calls under the name 'ltm', and the sites that tell it what to add.

A *site* is one attention module while something is attached to it: it sees the new keys and values of each call
(position-free), and it may add views. Without a site the function is transformers' own SDPA attention (or ours
where logits are capped), so a model switched to 'ltm' with nothing attached computes what it computed before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ltm.attention.positions import unrotate
from ltm.attention.views import Partial, View, attend, merge_gate, merge_softmax, total_lse
from ltm.backbone.turns import Turn
from ltm.compat import ALL_ATTENTION_FUNCTIONS, AttentionInterface, AttentionMaskInterface, sdpa_mask

ATTENTION_NAME = "ltm"


class SitePlugin(Protocol):
    """What a site asks of the things attached to it; `ltm.attention.Plugin` has the defaults."""

    def observe(self, layer: int, keys: Tensor, values: Tensor) -> None: ...

    def views(self, layer: int, query: Tensor) -> Sequence[View]: ...

    def used(self, layer: int, view: View, weights: Tensor) -> None: ...

    watches_local: bool

    def attended(self, layer: int, local: LocalView, lse: Tensor) -> None: ...

    def attend_local(self, layer: int, local: LocalView) -> Tensor | None: ...


class Site:
    """One attention module while attached: its plugins, and the rotary angles of the call under way.

    It is there for the thread that opened it; others find the module as it is without.
    """

    def __init__(
        self,
        layer: int,
        observers: Sequence[SitePlugin] = (),
        viewers: Sequence[SitePlugin] = (),
        local_plugins: Sequence[SitePlugin] = (),
    ):
        self.layer = layer
        self.observers, self.viewers, self.local_plugins = list(observers), list(viewers), list(local_plugins)
        self.angles: tuple[Tensor, Tensor] | None = None
        self.turn = Turn()
        self.was_reached = False
        """Whether the attention function has found this site."""

    def capture(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the attention module: keep the cosines and sines of this call's tokens."""
        angles = kwargs.get("position_embeddings")
        self.angles = (angles[0], angles[1]) if angles is not None else None

    def position_free(self, states: Tensor) -> Tensor:
        """Keys or queries of this call's tokens without their positions, [batch, heads, tokens, head_dim]."""
        return states if self.angles is None else unrotate(states, *self.angles)


_SITES: WeakKeyDictionary[nn.Module, Site] = WeakKeyDictionary()


@contextmanager
def open_site(module: nn.Module, site: Site) -> Iterator[Site]:
    """Put a site on an attention module for the length of a `with` block; one site a module at a time."""
    if module in _SITES:
        raise RuntimeError(f"layer {site.layer} already has an attention site: give all plugins to one attach()")
    handle = module.register_forward_pre_hook(site.turn.only(site.capture), with_kwargs=True)
    _SITES[module] = site
    try:
        yield site
    finally:
        del _SITES[module]
        handle.remove()


class LocalView(NamedTuple):
    """What transformers handed over: query [batch, heads, tokens, head_dim], key and value [batch, kv_heads, kv,
    head_dim] (the last `tokens` of them new), mask bool [batch, 1, tokens, kv] or None where plainly causal."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    dropout: float
    softcap: float | None
    options: dict[str, Any]

    def output(self) -> Tensor:
        """[batch, heads, tokens, head_dim], by transformers' SDPA, or by ours where logits are capped."""
        if self.softcap is not None:
            return self.partial().output
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        output, _ = sdpa(
            self.module,
            self.query,
            self.key,
            self.value,
            self.mask,
            dropout=self.dropout,
            scaling=self.scaling,
            **self.options,
        )
        return output.transpose(1, 2)

    def partial(self) -> Partial:
        """The same with its log-sum-exp, for a softmax shared with other views."""
        sees_all = self.mask is None and self.query.shape[2] == 1
        mask = None if sees_all else self.explicit_mask()
        return attend(self.query, self.key, self.value, mask, self.scaling, self.softcap, weights=False)

    def explicit_mask(self) -> Tensor:
        """bool [batch or 1, 1, tokens, kv]: the mask that transformers leaves out when attention is plainly causal."""
        tokens, kv = self.query.shape[2], self.key.shape[2]
        if self.mask is not None:
            return self.mask[..., :kv] if self.mask.dtype == torch.bool else self.mask[..., :kv] >= 0
        last = torch.arange(kv - tokens, kv, device=self.query.device)[:, None]
        return (torch.arange(kv, device=self.query.device)[None] <= last)[None, None]


def ltm_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over the local view (the cache's keys and values) and every view of the plugins attached here.

    Arguments as transformers' attention interface gives them (see `LocalView`); grouped heads are read off the
    shapes, `scaling` is taken as given. Returns [batch, tokens, heads, head_dim], and no weights.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    local = LocalView(module, query, key, value, attention_mask, scaling, dropout, softcap, kwargs)
    site = _SITES.get(module)
    if site is None or not site.turn.is_mine:
        return local.output().transpose(1, 2), None
    site.was_reached = True
    if site.observers:
        new_keys = site.position_free(key[:, :, -query.shape[2] :])
        for observer in site.observers:
            observer.observe(site.layer, new_keys, value[:, :, -query.shape[2] :])
    return _merge_views(site, local).transpose(1, 2), None


def _merge_views(site: Site, local: LocalView) -> Tensor:
    """[batch, heads, tokens, head_dim]. Views of the shared softmax join the local one; gates are applied after."""
    free_query = site.position_free(local.query) if site.viewers else local.query
    shared: list[Partial] = []
    gated: list[tuple[Partial, Tensor]] = []
    for plugin in site.viewers:
        for view in plugin.views(site.layer, free_query):
            partial = view.partial(free_query, local.query, local.scaling, local.softcap)
            if partial.weights is not None:
                plugin.used(site.layer, view, partial.weights)
            if view.gate is None:
                shared.append(partial)
            else:
                gated.append((partial, view.gate))
    output = _local_output(site, local, shared)
    for partial, gate in gated:
        output = merge_gate(output, partial, gate)
    return output


def _local_output(site: Site, local: LocalView, shared: Sequence[Partial]) -> Tensor:
    """Local attention, by a plugin that has its own way of it, with the views that share its softmax."""
    outputs = [found for plugin in site.local_plugins if (found := plugin.attend_local(site.layer, local)) is not None]
    watchers = [plugin for plugin in site.viewers if plugin.watches_local]
    if len(outputs) > 1 or (outputs and (shared or watchers)):
        raise RuntimeError(
            f"layer {site.layer}: one plugin may compute local attention, and no view share its softmax or watch it"
        )
    if outputs:
        return outputs[0]
    if not shared and not watchers:
        return local.output()
    parts = [local.partial(), *shared]
    for plugin in watchers:
        plugin.attended(site.layer, local, total_lse(parts))
    return merge_softmax(parts)


AttentionInterface.register(ATTENTION_NAME, ltm_attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
