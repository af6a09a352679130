"""KeptCache against plain lists: what is kept, where it stood, what is noted of it, and what it takes."""

from __future__ import annotations

import random

import pytest
import torch

from ltm.errors import LtmError
from ltm.streams.kept import EMPTY, KeptCache, KeptLayer

BATCH, HEADS, DIM = 2, 3, 4
ONE_PART = [[[0, 1, 2]]] * 2


class Rounded:
    """A codec that keeps whole numbers, so that what is packed can be told from what is not."""

    def pack(self, keys, values):
        return {"k": keys.round().to(torch.int8), "v": values.round().to(torch.int8)}

    def unpack(self, packed):
        return packed["k"].double(), packed["v"].double()


def new_tokens(count, places, seed):
    generator = torch.Generator().manual_seed(seed)
    states = 5 * torch.randn(2, BATCH, HEADS, count, DIM, generator=generator, dtype=torch.float64)
    return states[0], states[1], torch.tensor(places)


def content(layer, codec=None):
    """For each row and head a list of (place, key, value, note) in order."""
    keys, values = layer.keys_values(codec)
    notes, places = layer.note("seen"), layer.place.tolist()
    return [
        [
            [
                (place, keys[b, h, s].tolist(), values[b, h, s].tolist(), float(notes[b, h, s]))
                for s, place in enumerate(places[b][h])
                if place != EMPTY
            ]
            for h in range(HEADS)
        ]
        for b in range(BATCH)
    ]


@pytest.mark.parametrize("codec", [None, Rounded()], ids=["dense", "packed"])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_kept_equals_lists(seed, codec):
    """Random pieces with padding, evictions by head and settled rows, each done to lists as well."""
    draw, layer = random.Random(seed), KeptLayer()
    lists = [[[] for _ in range(HEADS)] for _ in range(BATCH)]
    seen = [0] * BATCH
    for step in range(12):
        count = draw.randint(1, 4)
        places = [[EMPTY] * count for _ in range(BATCH)]
        for b in range(BATCH):
            for t in range(count):
                if draw.random() < 0.8:
                    places[b][t], seen[b] = seen[b], seen[b] + 1
        keys, values, numbers = new_tokens(count, places, seed=100 * seed + step)
        layer.append(keys, values, numbers)
        layer.note("seen").add_(layer.held)
        for b in range(BATCH):
            for h in range(HEADS):
                new = [(p, keys[b, h, t].tolist(), values[b, h, t].tolist(), 0.0) for t, p in enumerate(places[b])]
                lists[b][h] = [
                    (p, k, v, n + 1) for p, k, v, n in lists[b][h] + [token for token in new if token[0] >= 0]
                ]
        if draw.random() < 0.5:
            dropped = {
                (b, h, p) for b in range(BATCH) for h in range(HEADS) for p in range(seen[b]) if draw.random() < 0.4
            }
            stays = [
                [[(b, h, p) not in dropped for p in layer.place[b, h].tolist()] for h in range(HEADS)]
                for b in range(BATCH)
            ]
            layer.keep(torch.tensor(stays, dtype=torch.bool).view(layer.place.shape))
            lists = [
                [[t for t in lists[b][h] if (b, h, t[0]) not in dropped] for h in range(HEADS)] for b in range(BATCH)
            ]
            assert layer.num_slots <= 2 * max(len(held) for row in lists for held in row)
        if codec is not None and draw.random() < 0.5:
            rows = [draw.random() < 0.7 for _ in range(BATCH)]
            layer.settle(torch.tensor(rows), codec)
            for b in (b for b in range(BATCH) if rows[b]):
                lists[b] = [[(p, _rounded(k), _rounded(v), n) for p, k, v, n in held] for held in lists[b]]
        assert content(layer, codec) == lists


def _rounded(vector):
    return torch.tensor(vector, dtype=torch.float64).round().tolist()


def test_what_leaves_is_freed():
    """Bytes of all tensors: as many slots as the fullest head keeps, not a mask over the rest."""
    cache = KeptCache(ONE_PART[:1])
    layer = cache.layers[0][0]
    layer.append(*new_tokens(100, [list(range(100))] * BATCH, seed=0))
    before = cache.nbytes
    kept = torch.zeros(BATCH, HEADS, 100, dtype=torch.bool)
    kept[..., 90:] = True
    layer.keep(kept)
    assert layer.num_slots == 10 and cache.nbytes == before // 10
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in layer.tensors()}
    assert sum(storages.values()) == cache.nbytes


def test_packed_slots_take_what_the_codec_keeps():
    layer = KeptLayer()
    layer.append(*new_tokens(8, [list(range(8))] * BATCH, seed=0))
    layer.settle(torch.tensor([True, True]), Rounded())
    assert layer.num_packed == layer.num_slots == 8
    assert sum(t.nbytes for t in layer.packed.values()) == 2 * BATCH * HEADS * 8 * DIM
    assert all(t.nbytes == 0 for t in layer.dense.values())


def test_rows_follow_and_do_not_see_each_other():
    cache = KeptCache(ONE_PART)
    for layer in cache.parts:
        layer.append(*new_tokens(4, [[0, 1, 2, 3], [EMPTY, EMPTY, 0, 1]], seed=1))
        layer.note("seen").add_(1)
        layer.states["sum"] = torch.ones(BATCH, HEADS, 2)
    chosen = cache.select(torch.tensor([1, 1, 0]))
    before = content(cache.parts[0])
    assert chosen.parts[1].place[:, 0].tolist() == [[0, 1, EMPTY, EMPTY], [0, 1, EMPTY, EMPTY], [0, 1, 2, 3]]
    assert chosen.parts[0].states["sum"].shape == (3, HEADS, 2)
    chosen.empty_row(2)
    chosen.parts[0].note("seen").add_(7)
    assert content(cache.parts[0]) == before
    assert chosen.parts[0].place[2].max() == EMPTY and float(chosen.parts[0].states["sum"][2].sum()) == 0
    assert chosen.num_slots == 2  # no longer as many as the row that was emptied


def test_order_counts_what_each_head_holds():
    layer = KeptLayer()
    layer.append(*new_tokens(4, [[0, 1, 2, 3], [0, EMPTY, 1, 2]], seed=2))
    layer.keep(layer.place != 1)
    assert layer.order[0, 0].tolist() == [0, 1, 2] and layer.last[:, 0].tolist() == [[3], [2]]
    held = layer.held[1, 0]
    assert layer.order[1, 0][held].tolist() == [0, 1]


def test_tensors_and_back():
    cache = KeptCache(ONE_PART)
    cache.parts[1].append(*new_tokens(3, [[0, 1, 2], [0, 1, 2]], seed=3))
    cache.parts[1].note("seen").add_(2)
    cache.parts[1].settle(torch.tensor([True, False]), Rounded())
    other = KeptCache.from_tensors(cache.groups, cache.to_tensors())
    assert content(other.parts[1], Rounded()) == content(cache.parts[1], Rounded()) and other.nbytes == cache.nbytes
    for name in ("2.place", "x.place", "0.secrets.keys", ""):
        with pytest.raises(LtmError, match="no part of a cache of 2 parts"):
            KeptCache.from_tensors(cache.groups, {name: torch.zeros(1)})
