"""Which events a query recalls: those whose representative keys suit it best, and their neighbours in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def representative_keys(keys: Tensor, attended: Tensor, sizes: Tensor, num_tokens: int) -> Tensor:
    """Of each event and head, the mean key of the tokens that were attended to most.

    keys: [layers, kv_heads, tokens, head_dim], without positions; attended: [layers, heads, tokens]; sizes: int64
    [events], which add up to the tokens. Returns [layers, events, heads * head_dim].
    """
    layers, kv_heads, _, head_dim = keys.shape
    group = attended.shape[1] // kv_heads
    found = []
    for own_keys, own_attended in zip(
        keys.split(sizes.tolist(), dim=2), attended.split(sizes.tolist(), dim=2), strict=True
    ):
        best = own_attended.topk(min(num_tokens, own_keys.shape[2]), dim=-1).indices  # [layers, heads, best]
        best = best.unflatten(1, (kv_heads, group)).flatten(2)  # [layers, kv_heads, group * best]
        chosen = own_keys.gather(2, best[..., None].expand(*best.shape, head_dim))
        found.append(chosen.unflatten(2, (group, -1)).mean(dim=3).reshape(layers, -1))
    return torch.stack(found, dim=1)


def mean_keys(keys: Tensor, sizes: Tensor) -> Tensor:
    """Of each event the mean key of its tokens: keys [layers, kv_heads, tokens, head_dim], sizes int64 [events] ->
    [layers, events, kv_heads * head_dim]."""
    owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(keys.device)
    precise = keys.to(torch.promote_types(keys.dtype, torch.float32))
    sums = precise.new_zeros(*keys.shape[:2], len(sizes), keys.shape[3]).index_add_(2, owner, precise)
    means = sums / sizes.to(sums)[:, None]  # [layers, kv_heads, events, head_dim]
    return means.to(keys.dtype).transpose(1, 2).flatten(2)


def votes(products: Tensor, sinks: Tensor, vote: str, scaling: float) -> Tensor:
    """What a query thinks of each event, [queries, events], from its inner products with their representative keys,
    [queries, heads, events], and with the keys of sinks, [queries, heads, sinks].

    'sum' adds them up over heads, and heads with large keys decide; with 'softmax' each head spreads one vote over
    sinks and events: what goes to sinks is lost, so that heads that look for nothing have no say.
    """
    if vote == "sum":
        return products.sum(dim=1)
    together = torch.cat((sinks, products), dim=-1).to(torch.promote_types(products.dtype, torch.float32))
    return torch.softmax(together * scaling, dim=-1)[..., sinks.shape[-1] :].sum(dim=1)


def head_products(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner products of queries [queries, heads, head_dim] with keys [kv_heads, n, head_dim] of the head's own kv head:
    [queries, heads, n]."""
    return _grouped_products(queries, keys[:, None]).transpose(0, 1).flatten(1, 2)


def _grouped_products(queries: Tensor, keys: Tensor) -> Tensor:
    """[kv_heads, queries, group, n] from queries [queries, heads, head_dim] and the keys that each of them meets,
    [kv_heads, queries, n, head_dim], or the same for all [kv_heads, 1, n, head_dim]."""
    grouped = queries.unflatten(1, (len(keys), -1)).transpose(0, 1)  # [kv_heads, queries, group, head_dim]
    return torch.matmul(grouped.to(keys.dtype), keys.transpose(-1, -2))


def attention_votes(
    queries: Tensor, keys: Tensor, num_sinks: int, owner: Tensor, candidates: Tensor, scaling: float
) -> Tensor:
    """How much attention each query would give to each of its candidates, summed over heads: [queries, events].

    queries: [queries, heads, head_dim]; keys: [kv_heads, num_sinks + tokens, head_dim], of sinks and then of all
    events; owner: int64 [tokens], each token's event; candidates: bool [queries, events], the events that stand in one
    softmax with the sinks (-inf for the others). Heads that have nothing to look for look at sinks and have no say.
    """
    count, events = candidates.shape
    seen = torch.cat((torch.ones(count, num_sinks, dtype=torch.bool), candidates[:, owner]), dim=1)
    index, held = _columns(seen)  # [queries, most]
    own = keys[:, index.to(keys.device)] if count > 1 else keys[:, None]  # [kv_heads, queries, most, head_dim]
    logits = _grouped_products(queries, own).to(torch.promote_types(keys.dtype, torch.float32)) * scaling
    logits = logits.masked_fill_(~held[:, None].to(keys.device), float("-inf"))
    shares = torch.softmax(logits, dim=-1).sum(dim=(0, 2)).cpu() * held  # [queries, most]
    found = shares.new_zeros(count, events)
    found.scatter_add_(1, owner[(index - num_sinks).clamp(min=0)][:, num_sinks:], shares[:, num_sinks:])
    return found.masked_fill_(~candidates, float("-inf"))


def _columns(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Of bool [queries, n] the true columns of each row in order, int64 [queries, most], padded, and which are real."""
    counts = seen.sum(dim=1)
    held = torch.arange(int(counts.max())) < counts[:, None]
    index = torch.zeros(held.shape, dtype=torch.int64)
    index[held] = seen.nonzero()[:, 1]
    return index, held


def most_events(sizes: Tensor, budget: int) -> int:
    """The most events that any order of them can put into a budget of tokens, the one that goes over included."""
    return int((sizes.sort().values.cumsum(0) <= budget).sum()) + 1


def select_events(scores: Tensor, sizes: Tensor, budget: int, neighbour_budget: int, most: int | None = None) -> Tensor:
    """The events that each query recalls, bool [queries, events], on the host.

    scores: [queries, events]; sizes: int64 [events], tokens. By falling score events are taken until `budget` tokens
    are full; the one that goes over counts if that is nearer to the budget than without it. Then, in the same order,
    the event after and the event before each of them, until `neighbour_budget` tokens are full (the same rule). All
    are taken where they fit `budget`. most: from `most_events`, where it is known.
    """
    queries, events = scores.shape
    if int(sizes.sum()) <= budget:
        return torch.ones(queries, events, dtype=torch.bool)
    # in numpy: a decoded token selects in every layer, and a torch operation on so little costs several times as much
    tokens = sizes.numpy()
    ranked = _ranked(scores, min(events, most_events(sizes, budget) if most is None else most))
    taken = _within(tokens[ranked], budget)
    chosen = np.zeros((queries, events), dtype=bool)
    np.put_along_axis(chosen, ranked, taken, axis=1)
    if neighbour_budget:
        around = np.stack((ranked + 1, ranked - 1), axis=-1).reshape(
            queries, -1
        )  # [queries, candidates]: after, before
        real = np.repeat(taken, 2, axis=1) & (around >= 0) & (around < events)
        around = around.clip(0, events - 1)
        real &= ~np.take_along_axis(chosen, around, axis=1)
        real &= _first_of_its_kind(around, real, events)
        kept = _within(tokens[around] * real, neighbour_budget) & real
        row, place = kept.nonzero()
        chosen[row, around[row, place]] = True
    return torch.from_numpy(chosen)


def _ranked(scores: Tensor, count: int) -> Any:
    """The `count` best events of each query, best first, int64 [queries, count]."""
    return scores.topk(count, dim=-1).indices.cpu().numpy()


def _within(sizes: Any, budget: int) -> Any:
    """Which of candidates in order (sizes [queries, candidates], 0: passed over) fill a budget, bool."""
    ends = sizes.cumsum(axis=1)
    fits = ends < budget
    first_over = ~fits & (sizes > 0)
    first_over &= first_over.cumsum(axis=1) == 1
    nearer = np.abs(budget - ends + sizes) > np.abs(ends - budget)
    return fits | (first_over & nearer)


def _first_of_its_kind(events: Any, real: Any, count: int) -> Any:
    """Whether a place of events [queries, places] is the first real one that names its event."""
    rows, places = np.indices(events.shape)
    first = np.full((len(events), count), events.shape[1])
    np.minimum.at(first, (rows[real], events[real]), places[real])
    return np.take_along_axis(first, events, axis=1) == places
