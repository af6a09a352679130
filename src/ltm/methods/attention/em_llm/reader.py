"""The plugin that lets every layer look at sinks, recalled events and recent tokens beside its window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ltm.attention import LocalView, Partial, Plugin, View, attend, rotate
from ltm.backbone import BackboneView
from ltm.methods.attention.em_llm.config import EmLlmConfig
from ltm.methods.attention.em_llm.past import EventPast
from ltm.methods.attention.em_llm.selection import attention_votes, head_products, select_events, votes

SCORE_EVERY = 4
"""Every so many tokens of a segment say what they attended to, at a quarter of the cost of all."""
QUERY_PIECE = 16
"""Query tokens that each recall their own events are attended in pieces, so that a piece's events are few."""


class EventReader(Plugin):
    """One call of the backbone with its past attached.

    pasts: of each batch row; mask: bool [batch, held + new tokens], False = padding; new: how many tokens are new;
    per_token: each token recalls for itself (answering), instead of all of a segment together by their mean query
    (reading); scratch: kept between the calls of one window; uses: where to note which places were used, or None.

    After the call `received` holds, with representative="attended" and for each recalling layer, the attention that
    the window's columns received from the new tokens, [batch, heads, held + new tokens].
    """

    def __init__(
        self,
        view: BackboneView,
        config: EmLlmConfig,
        pasts: Sequence[EventPast],
        mask: Tensor,
        new: int,
        per_token: bool,
        scratch: dict[Any, Any],
        uses: PlaceUse | None = None,
    ):
        self.view, self.config, self.pasts, self.per_token = view, config, pasts, per_token
        self.scratch, self.uses = scratch, uses
        self.viewed_layers = range(view.num_layers)
        self.recalling = recalling_layers(view)
        self.recall_from_layer = config.first_layer("recall_from_layer", view.num_layers)
        self.new_mask = mask[:, -new:]
        self.positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -new:]  # [batch, new]
        self.received: dict[int, Tensor] = {}
        self.counts_attention = config.representative == "attended"
        self.watches_local = self.counts_attention or uses is not None

    def views(self, layer: int, query: Tensor) -> Sequence[View]:
        found: list[View] = []
        if any(past.tokens for past in self.pasts) and self.config.recent_size:
            found.append(self._recent_view(layer, query))
        if layer in self.recalling and any(self.has_past(layer, past) for past in self.pasts):
            found.append(EventView(self, layer))
        return found

    def attended(self, layer: int, local: LocalView, lse: Tensor) -> None:
        """Sum the weights that local keys received, over every SCORE_EVERY-th token."""
        if self.uses is not None:
            self.uses.finish_layer(lse)
        if layer not in self.recalling or not self.counts_attention:
            return
        asking = self.new_mask & (self.positions % SCORE_EVERY == SCORE_EVERY - 1)
        columns = asking.any(dim=0).nonzero().squeeze(1)
        batch, heads = local.query.shape[:2]
        kv_heads, kv = local.key.shape[1:3]
        if not len(columns):
            self.received[layer] = lse.new_zeros(batch, heads, kv)
            return
        query = local.query[:, :, columns].reshape(batch, kv_heads, -1, local.query.shape[-1])
        logits = torch.matmul(query, local.key.transpose(-1, -2)).view(batch, heads, len(columns), kv).to(lse.dtype)
        logits = logits * local.scaling
        if local.softcap is not None:
            logits = local.softcap * torch.tanh(logits / local.softcap)
        seen = local.explicit_mask()[:, :, columns] & asking[:, None, columns, None]
        weights = torch.exp(logits - lse[:, :, columns, None]).masked_fill_(~seen, 0.0)
        self.received[layer] = weights.sum(dim=2)

    # recent tokens

    def _recent_view(self, layer: int, query: Tensor) -> View:
        """The tokens just before the segment, at their true distance."""
        known = self.scratch.get(("recent", layer))
        if known is None:
            known = self.scratch[("recent", layer)] = self._recent(layer, query.device)
        keys, values, mask = known
        window = self.view.sliding_window(layer)
        if window is not None:
            distance = self.positions[:, None, :, None] + torch.arange(keys.shape[2], 0, -1, device=keys.device)
            mask = (distance < window) & (True if mask is None else mask)
        return View(keys, values, mask, position_free=False)

    def _recent(self, layer: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys at positions -n to -1 before the segment, values, and where there are any, padded at the left."""
        longest = max(past.recent.stop - past.recent.start for past in self.pasts)
        parts = [
            past.entries(layer, past.recent) if past.tokens else None for past in self.pasts
        ]  # [kv_heads, n, head_dim]
        keys, values, mask = _stack(parts, longest, left=True)
        angles = self.view.angles(torch.arange(-longest, 0, device=device)[None], layer, torch.float32)
        return (keys if angles is None else rotate(keys, *angles)), values, mask

    # events

    def has_past(self, layer: int, past: EventPast) -> bool:
        """Whether a layer sees anything of a row before its recent tokens."""
        return bool(past.recent.start and (layer >= self.recall_from_layer or past.fits or past.num_sinks))

    def edge_query(self, layer: int, query: Tensor) -> Tensor:
        """The position-free query, rotated to the window's far edge from where remembered keys stand."""
        key = ("edge", layer)
        if key not in self.scratch:
            edge = torch.tensor([[self.config.edge]], device=query.device)
            self.scratch[key] = self.view.angles(edge, layer, torch.float32)
        angles = self.scratch[key]
        return query if angles is None else rotate(query, *angles)

    def recall(
        self, layer: int, row: int, queries: Tensor, scaling: float
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """What one row's queries look at: keys and values [kv_heads, n, head_dim], which each query sees, bool
        [queries, n] or None for all, and the places [n]. queries: [queries, heads, head_dim]."""
        past = self.pasts[row]
        sinks = torch.arange(past.num_sinks)
        mask = None
        if past.fits:
            events = torch.arange(len(past.sizes))
        elif layer < self.recall_from_layer:
            events = torch.zeros(0, dtype=torch.int64)
        else:
            chosen = self._choose(layer, row, queries, scaling)
            events = chosen.any(dim=0).nonzero().squeeze(1)
            if len(chosen) > 1:
                mask = chosen[:, events]
        known = self.scratch.get(("recalled", layer, row))
        if known is None or not torch.equal(known[0], events):
            places, owner = past.places(events)
            keys, values = past.entries(layer, torch.cat((sinks, places)))
            if self.config.placement == "ordered":
                keys = self._in_order(layer, keys, past, events, places, owner)
            known = events, keys, values, torch.cat((sinks, places)), owner
            if self.per_token and len(queries) == 1 or past.fits or layer < self.recall_from_layer:
                self.scratch[("recalled", layer, row)] = known
        _, keys, values, places, owner = known
        if mask is not None:
            mask = torch.cat((torch.ones(len(mask), len(sinks), dtype=torch.bool), mask[:, owner]), dim=1)
        return keys, values, mask if mask is None else mask.to(keys.device), places

    def _choose(self, layer: int, row: int, queries: Tensor, scaling: float) -> Tensor:
        """The events that each query recalls, bool [queries, events]; queries: [queries, heads, head_dim]."""
        past = self.pasts[row]
        products = past.products(layer, queries)
        sinks = head_products(queries, self._sink_keys(layer, row)) if past.num_sinks else products[..., :0]
        scores = votes(products, sinks, self.config.vote, scaling)
        meant = self.config.candidates(layer, self.view.num_layers, past.tokens)
        if meant is not None:
            candidates = select_events(scores, past.sizes, meant, 0, past.most(meant))
            events = candidates.any(dim=0).nonzero().squeeze(1)
            places, owner = past.places(events)
            keys = past.keys(layer, torch.cat((torch.arange(past.num_sinks), places)))
            own = attention_votes(queries, keys, past.num_sinks, owner, candidates[:, events], scaling)
            scores = own.new_full(candidates.shape, float("-inf"))
            scores[:, events] = own
        return select_events(scores, past.sizes, past.budget, past.neighbour_budget, past.most(past.budget))

    def _sink_keys(self, layer: int, row: int) -> Tensor:
        """Position-free keys [kv_heads, num_sinks, head_dim]."""
        key = ("sinks", layer, row)
        if key not in self.scratch:
            past = self.pasts[row]
            self.scratch[key] = past.keys(layer, slice(0, past.num_sinks))
        return self.scratch[key]

    def _in_order(
        self, layer: int, keys: Tensor, past: EventPast, events: Tensor, places: Tensor, owner: Tensor
    ) -> Tensor:
        """Keys of sinks and events, those of an event rotated to the last places before position 0."""
        offsets = places - past.first[events][owner] - past.sizes[events][owner]  # -size to -1
        offsets = torch.cat((torch.zeros(past.num_sinks, dtype=torch.int64), offsets)).to(keys.device)
        angles = self.view.angles(offsets[None], layer, torch.float32)
        return keys if angles is None else rotate(keys[None], *angles)[0]


class EventView(View):
    """Sinks and recalled events of every row of the batch, fetched and attended piece by piece."""

    def __init__(self, reader: EventReader, layer: int):
        self.reader, self.layer, self.gate = reader, layer, None

    def partial(self, free: Tensor, local: Tensor, scaling: float, softcap: float | None) -> Partial:
        reader = self.reader
        query = reader.edge_query(self.layer, free)
        pieces = query.split(QUERY_PIECE, dim=2) if reader.per_token else (query,)
        parts, start = [], 0
        for piece in pieces:
            parts.append(self._attend(piece, start, scaling, softcap))
            start += piece.shape[2]
        if len(parts) == 1:
            return parts[0]
        return Partial(torch.cat([p.output for p in parts], dim=2), torch.cat([p.lse for p in parts], dim=2), None)

    def _attend(self, query: Tensor, start: int, scaling: float, softcap: float | None) -> Partial:
        """query: [batch, heads, tokens of the piece, head_dim]; start: the piece's first column."""
        reader, tokens = self.reader, query.shape[2]
        found: list[tuple[Tensor, Tensor] | None] = []
        masks: list[Tensor | None] = []
        places = []
        for row, past in enumerate(reader.pasts):
            if not reader.has_past(self.layer, past):
                found.append(None)
                masks.append(None)
                places.append(torch.zeros(0, dtype=torch.int64))
                continue
            queries = query[row].transpose(0, 1)  # [tokens, heads, head_dim]
            if not reader.per_token:
                queries = queries[reader.new_mask[row]].mean(dim=0, keepdim=True)
            keys, values, mask, own = reader.recall(self.layer, row, queries, scaling)
            found.append((keys, values))
            masks.append(mask)
            places.append(own)
        longest = max(len(own) for own in places)
        keys, values, present = _stack(found, longest, left=False)
        mask = _spread(masks, present, tokens, longest)
        partial = attend(query, keys, values, mask, scaling, softcap, weights=reader.uses is not None)
        if reader.uses is not None and partial.weights is not None:
            reader.uses.note(places, partial.weights, partial.lse, start)
        return partial._replace(weights=None)


class PlaceUse:
    """How much each place of the past was recalled by each new token, averaged over heads and recalling layers; what
    stands in the window is not recalled."""

    def __init__(self, pasts: Sequence[EventPast], new: int):
        self.sums = [torch.zeros(new, past.tokens) for past in pasts]
        self.num_sinks = [past.num_sinks for past in pasts]
        self.num_layers = 0
        self._pending: list[tuple[Sequence[Tensor], Tensor, Tensor, int]] = []

    def note(self, places: Sequence[Tensor], weights: Tensor, lse: Tensor, start: int) -> None:
        """The own softmax weights [batch, heads, tokens, slots] of a view, its log-sum-exp and its first column."""
        self._pending.append((places, weights, lse, start))

    def finish_layer(self, lse: Tensor) -> None:
        """With the log-sum-exp [batch, heads, new tokens] of all views of the layer, weights become shares."""
        for places, weights, own, start in self._pending:
            stop = start + weights.shape[2]
            share = torch.exp(own - lse[:, :, start:stop]).nan_to_num(0.0)[..., None]
            mean = (weights * share).mean(dim=1).float().cpu()  # [batch, tokens, slots]
            for row, chosen in enumerate(places):
                self.sums[row][start:stop].index_add_(1, chosen, mean[row, :, : len(chosen)])
        self.num_layers += bool(self._pending)
        self._pending = []


def recalling_layers(view: BackboneView) -> frozenset[int]:
    """Layers that recall events: all but those that slide where others do not (Gemma): they are local by design."""
    whole = [layer for layer in range(view.num_layers) if view.sliding_window(layer) is None]
    return frozenset(whole or range(view.num_layers))


def _stack(
    parts: Sequence[tuple[Tensor, Tensor] | None], longest: int, left: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values [kv_heads, n, head_dim] of each row as [batch, kv_heads, longest, head_dim], padded, and which
    slots hold something, bool [batch, 1, 1, longest], None for all."""
    like = next(part for part in parts if part is not None)[0]
    empty = like[:, :0]
    filled = [part if part is not None else (empty, empty) for part in parts]
    lengths = torch.tensor([keys.shape[1] for keys, _ in filled], device=like.device)

    def stack(which: int) -> Tensor:
        sides = [(longest - part[which].shape[1]) for part in filled]
        return torch.stack(
            [
                pad(part[which], (0, 0, missing, 0) if left else (0, 0, 0, missing)) if missing else part[which]
                for part, missing in zip(filled, sides, strict=True)
            ]
        )

    if bool((lengths == longest).all()):
        return stack(0), stack(1), None
    slots = torch.arange(longest, device=like.device)
    held = slots >= longest - lengths[:, None] if left else slots < lengths[:, None]
    return stack(0), stack(1), held[:, None, None]


def _spread(masks: Sequence[Tensor | None], present: Tensor | None, tokens: int, longest: int) -> Tensor | None:
    """Masks [queries or 1, n] of the rows as bool [batch, 1, tokens or 1, longest]; None: everybody sees everything."""
    if all(mask is None for mask in masks):
        return present
    device = next(mask for mask in masks if mask is not None).device
    spread = torch.zeros(len(masks), 1, tokens, longest, dtype=torch.bool, device=device)
    for row, mask in enumerate(masks):
        if mask is None:
            spread[row] = True if present is None else present[row]
        else:
            spread[row, 0, :, : mask.shape[1]] = mask
    return spread
