"""The plugin of every cache rule: in each layer, block after block of new tokens attends to what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ltm.attention import LocalView, Plugin, attend, rotate, unrotate
from ltm.attention.received import asking_columns, attention_weights
from ltm.backbone import BackboneView
from ltm.streams.kept import EMPTY, KeptCache, KeptLayer

if TYPE_CHECKING:
    from ltm.methods.cache.base import CacheRule


class Block(NamedTuple):
    """Columns that attend together, and the rows whose block they end, bool [batch]; None: no row's."""

    columns: slice
    ending: Tensor | None


def cut_blocks(places: Tensor, size: int) -> list[Block]:
    """New columns cut wherever some row has filled a block. places: int64 [batch, new], EMPTY = padding.

    >>> [block.columns for block in cut_blocks(torch.tensor([[6, 7, 8, 9]]), 4)]
    [slice(0, 2, None), slice(2, 4, None)]
    """
    ends = (places != EMPTY) & ((places + 1) % size == 0)
    blocks, start = [], 0
    for last in ends.any(dim=0).nonzero().squeeze(1).tolist():
        blocks.append(Block(slice(start, last + 1), ends[:, last]))
        start = last + 1
    return blocks if start == places.shape[1] else [*blocks, Block(slice(start, places.shape[1]), None)]


class KeptAttention(Plugin):
    """Attention of one pass over new tokens: block by block in every layer.

    cache: is changed; places: int64 [batch, new], EMPTY = padding; positions: int64 [batch, new], those that the model
    is called with.
    """

    def __init__(self, rule: CacheRule, view: BackboneView, cache: KeptCache, places: Tensor, positions: Tensor):
        self.rule, self.view, self.cache, self.places, self.positions = rule, view, cache, places, positions
        self.local_layers = range(view.num_layers)
        self.blocks = cut_blocks(places, rule.method_config.block)
        self.by_order = rule.method_config.positions == "cache"

    def attend_local(self, layer: int, local: LocalView) -> Tensor:
        query, keys = local.query, local.key
        if self.by_order and (angles := self.view.angles(self.positions, layer)) is not None:
            query, keys = unrotate(query, *angles), unrotate(keys, *angles)
        grouped = query.unflatten(1, (keys.shape[1], -1))  # [batch, kv_heads, group, tokens, head_dim]
        outputs = torch.empty_like(grouped)
        for held in self.cache.layers[layer]:
            heads = slice(None) if len(held.heads) == keys.shape[1] else held.heads
            own = local._replace(query=grouped[:, heads].flatten(1, 2), key=keys[:, heads], value=local.value[:, heads])
            outputs[:, heads] = self._attend_part(layer, held, own).view_as(grouped[:, heads])
        return outputs.flatten(1, 2)

    def _attend_part(self, layer: int, held: KeptLayer, local: LocalView) -> Tensor:
        """[batch, heads, tokens, head_dim] of the heads that are kept together, block after block."""
        outputs = []
        for columns, ending in self.blocks:
            held.append(local.key[:, :, columns], local.value[:, :, columns], self.places[:, columns])
            outputs.append(self._attend(layer, held, local.query[:, :, columns], self.places[:, columns], local))
            if ending is not None:
                self._end_block(layer, held, ending)
        return torch.cat(outputs, dim=2)

    def _attend(self, layer: int, held: KeptLayer, query: Tensor, places: Tensor, local: LocalView) -> Tensor:
        """[batch, heads, columns, head_dim] of queries whose own tokens were appended last."""
        keys, values = held.keys_values(self.rule.codec(layer, held))
        if self.by_order:
            query, keys = self._in_order(layer, held, query, keys)
        seen = self._seen(layer, held, places)
        looked = self.rule.look(layer, held, query, seen.expand(len(query), keys.shape[1], -1, -1))
        mask = _of_heads(seen, query) if looked is None else _of_heads(seen, query) & _of_heads(looked, query)
        found = attend(query, keys, values, mask, local.scaling, local.softcap, weights=False)
        asking = self.rule.asks(layer, places)
        if asking is not None:
            self._note(layer, held, local._replace(query=query, key=keys, mask=mask), found.lse, places, asking)
        return found.output

    @torch.no_grad()
    def _note(self, layer: int, held: KeptLayer, local: LocalView, lse: Tensor, places: Tensor, asking: Tensor) -> None:
        """Tell the rule what the queries that it asks about gave to each slot; local.mask is what they see."""
        columns = asking_columns(asking)
        if not len(columns):
            return
        assert local.mask is not None
        seen = local.mask[:, :, columns] & asking[:, None, columns, None]
        query, keys = local.query[:, :, columns].to(lse.dtype), local.key.to(lse.dtype)
        weights = attention_weights(query, keys, lse[:, :, columns], seen, local.scaling, local.softcap)
        asked = places[:, columns].masked_fill(~asking[:, columns], EMPTY)
        self.rule.note(layer, held, weights.unflatten(1, (keys.shape[1], -1)), asked)

    def _seen(self, layer: int, held: KeptLayer, places: Tensor) -> Tensor:
        """Which slots each query may see, bool [batch, kv_heads, columns, slots] or what broadcasts to it: none after
        its own place, and none that slid out of the layer's window."""
        window, new = self.view.sliding_window(layer), places.shape[1]
        if window is None and bool(held.held.all()):  # the last slots are the queries' own, in every row and head
            return places.new_ones(new, held.num_slots, dtype=torch.bool).tril(held.num_slots - new)[None, None]
        query, slots = places[:, None, :, None], held.place[:, :, None]
        seen = (slots != EMPTY) & (slots <= query)
        return seen if window is None else seen & (query - slots < window)

    def _in_order(self, layer: int, held: KeptLayer, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Position-free queries and keys, put where they stand among what their head holds."""
        order = held.order
        own = order[:, :, -query.shape[2] :].repeat_interleave(query.shape[1] // keys.shape[1], dim=1)
        return self._placed(layer, query, own), self._placed(layer, keys, order)

    def _placed(self, layer: int, states: Tensor, positions: Tensor) -> Tensor:
        """Rotate [batch, heads, tokens, head_dim] to positions of each head, [batch, heads, tokens]."""
        flat = states.flatten(0, 1)[:, None]  # every head as a row
        angles = self.view.angles(positions.flatten(0, 1), layer)
        return rotate(flat, *angles).view_as(states) if angles is not None else states

    def _end_block(self, layer: int, held: KeptLayer, ending: Tensor) -> None:
        """Free what no query will see again, then what the rule lets go in the rows whose block has ended."""
        window = self.view.sliding_window(layer)
        if window is not None:
            held.keep(held.place > held.last + 1 - window)
        stays = self.rule.keep(layer, held) | ~ending[:, None, None]
        leaving = held.held & ~stays
        if bool(leaving.any()):
            self.rule.gone(layer, held, leaving)
            held.keep(stays)
        codec = self.rule.codec(layer, held)
        if codec is not None:
            held.settle(ending, codec)


def _of_heads(seen: Tensor, query: Tensor) -> Tensor:
    """bool [batch, heads, tokens, slots] from what is said of key heads."""
    group = query.shape[1] // seen.shape[1]
    return seen if 1 in (group, seen.shape[1]) else seen.repeat_interleave(group, dim=1)
