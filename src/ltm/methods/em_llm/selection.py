"""Which events a query recalls: those whose representative keys suit it best, and their neighbours in time."""

from __future__ import annotations

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


def most_events(sizes: Tensor, budget: int) -> int:
    """The most events that any order of them can put into a budget of tokens, the one that goes over included."""
    return int((sizes.sort().values.cumsum(0) <= budget).sum()) + 1


def select_events(scores: Tensor, sizes: Tensor, budget: int, neighbour_budget: int, most: int | None = None) -> Tensor:
    """The events that each query recalls, bool [queries, events].

    scores: [queries, events]; sizes: int64 [events], tokens. By falling score events are taken until `budget` tokens
    are full; the one that goes over counts if that is nearer to the budget than without it. Then, in the same order,
    the event after and the event before each of them, until `neighbour_budget` tokens are full (the same rule). All
    are taken where they fit `budget`. most: from `most_events`, where it is known.
    """
    queries, events = scores.shape
    if int(sizes.sum()) <= budget:
        return torch.ones_like(scores, dtype=torch.bool)
    count = min(events, most_events(sizes, budget) if most is None else most)
    ranked = scores.topk(count, dim=-1).indices  # [queries, count]
    taken = _within(sizes[ranked], budget)
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, ranked, taken)
    if neighbour_budget:
        around = torch.stack((ranked + 1, ranked - 1), dim=-1).flatten(1)  # [queries, 2 * count]: after, before
        real = taken.repeat_interleave(2, dim=1) & (around >= 0) & (around < events)
        around = around.clamp(0, events - 1)
        real &= ~chosen.gather(1, around) & _first_of_its_kind(around, real, events)
        kept = _within(sizes[around] * real, neighbour_budget) & real
        chosen.scatter_reduce_(1, around, kept, "amax")
    return chosen


def _within(sizes: Tensor, budget: int) -> Tensor:
    """Which of candidates in order (sizes [queries, candidates], 0: passed over) fill a budget, bool."""
    ends = sizes.cumsum(dim=1)
    before = ends - sizes
    fits = ends < budget
    first_over = (~fits & (sizes > 0)).int().cumsum(dim=1) == 1
    nearer = (budget - before).abs() > (ends - budget).abs()
    return fits | (first_over & (sizes > 0) & ~fits & nearer)


def _first_of_its_kind(events: Tensor, real: Tensor, count: int) -> Tensor:
    """Whether a place of events [queries, places] is the first real one that names its event."""
    places = torch.arange(events.shape[1], device=events.device).expand_as(events)
    places = torch.where(real, places, events.shape[1])
    first = torch.full((len(events), count), events.shape[1], device=events.device)
    first.scatter_reduce_(1, events, places, "amin")
    return first.gather(1, events) == places
