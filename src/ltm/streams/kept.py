"""KeptCache: of every layer and head the few keys and values that a budget allows, with their true places.

A *slot* holds one token's key and value of one key head. Heads keep other tokens than their neighbours, rows have
other lengths, so a slot that holds nothing is marked by place -1; slots stand in the order of their places. A token's
*place* is its number in the row, padding not counted: the commonest fault of caches that evict is to take the number
of slots for it. What leaves is freed, not masked: tensors are made anew, and as long as the fullest head.

A part's tensors are as long as its fullest head. Heads whose budgets differ are therefore kept in parts of their own,
so that what a short one lets go is freed as well. Nothing here knows a model or a rule; `ltm.methods.cache` decides
what stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ltm.errors import LtmError

EMPTY = -1
"""The place of a slot that holds nothing."""
_NAMES = ("place", "dense", "packed", "notes", "states")


class Codec(Protocol):
    """How settled keys and values are kept: columns [batch, kv_heads, slots, ...] of any dtype, by name."""

    def pack(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        """What is kept of keys and values [batch, kv_heads, slots, head_dim], each slot for itself."""
        ...

    def unpack(self, packed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values as attention reads them."""
        ...


class KeptLayer:
    """The slots of one layer, or of some of its heads.

    heads: numbers of the key heads, in the order of the tensors' second axis. place: int64 [batch, kv_heads, slots],
    ascending but for EMPTY. notes: of each slot, [batch, kv_heads, slots, ...], 0 for a token that comes; states: of
    each head, [batch, kv_heads, ...]; both are a method's own, and follow their rows. With a codec the first slots are
    `packed` and those after them dense; without, all are dense.

    >>> held = KeptLayer()
    >>> held.append(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), torch.tensor([[0, 1, 2]]))
    >>> held.keep(torch.tensor([[[True, False, True], [False, True, True]]]))
    >>> held.place.tolist()
    [[[0, 2], [1, 2]]]
    """

    def __init__(self, heads: Sequence[int] = ()) -> None:
        self.heads = list(heads)
        self.dense: dict[str, Tensor] = {}
        """keys and values [batch, kv_heads, dense slots, head_dim]."""
        self.packed: dict[str, Tensor] = {}
        self.place = torch.empty(0, 0, 0, dtype=torch.long)
        self.notes: dict[str, Tensor] = {}
        self.states: dict[str, Tensor] = {}

    @property
    def num_slots(self) -> int:
        return self.place.shape[2]

    @property
    def num_packed(self) -> int:
        return next(iter(self.packed.values())).shape[2] if self.packed else 0

    @property
    def held(self) -> Tensor:
        """Which slots hold a token, bool [batch, kv_heads, slots]."""
        return self.place != EMPTY

    @property
    def last(self) -> Tensor:
        """The place of each head's latest token, int64 [batch, kv_heads, 1]; EMPTY where there is none."""
        return self.place.amax(dim=-1, keepdim=True)

    @property
    def order(self) -> Tensor:
        """Which token of its head's each slot holds, counted from 0: int64 [batch, kv_heads, slots]; what an empty one
        has means nothing."""
        return (self.held.long().cumsum(dim=-1) - 1).clamp(min=0)

    def note(self, name: str) -> Tensor:
        """The note of that name, [batch, kv_heads, slots], in float32 at least; made of zeros where it is new. It may
        be changed in place by who has just appended."""
        if name not in self.notes:
            dtype = torch.promote_types(self.dense["keys"].dtype, torch.float32)
            self.notes[name] = torch.zeros(self.place.shape, dtype=dtype, device=self.place.device)
        return self.notes[name]

    def keys_values(self, codec: Codec | None = None) -> tuple[Tensor, Tensor]:
        """All keys and values, [batch, kv_heads, slots, head_dim], unpacked by the codec that packed them."""
        keys, values = self.dense["keys"], self.dense["values"]
        if not self.packed:
            return keys, values
        assert codec is not None, "what was packed needs its codec"
        packed_keys, packed_values = codec.unpack(self.packed)
        return torch.cat((packed_keys, keys), dim=2), torch.cat((packed_values, values), dim=2)

    def append(self, keys: Tensor, values: Tensor, places: Tensor) -> None:
        """Take new tokens in: keys and values [batch, kv_heads, new, head_dim]; places int64 [batch, new], the same for
        all heads, EMPTY = padding. Slots that are empty in every head are dropped."""
        new = places[:, None].expand(-1, keys.shape[1], -1)
        fresh = {"keys": keys, "values": values}
        if not self.dense:
            self.dense, self.place = fresh, new
        else:
            self.dense = {name: torch.cat((self.dense[name], fresh[name]), dim=2) for name in fresh}
            self.place = torch.cat((self.place, new), dim=2)
        self.notes = {name: _with_zeros(note, new.shape[2]) for name, note in self.notes.items()}
        if bool((places == EMPTY).any()):
            self.keep(self.held)

    def keep(self, kept: Tensor) -> None:
        """Free every slot but these, bool [batch, kv_heads, slots]: as many stay as the fullest head keeps."""
        kept, edge = kept & self.held, self.num_packed
        packed, dense = _positions(kept[:, :, :edge]), _positions(kept[:, :, edge:])
        self.packed = {name: _gather(column, packed) for name, column in self.packed.items()}
        self.dense = {name: _gather(column, dense) for name, column in self.dense.items()}
        both = torch.cat((packed, dense + edge), dim=2)
        self.place = _gather(self.place.masked_fill(~kept, EMPTY), both)
        self.notes = {name: _gather(note, both) for name, note in self.notes.items()}

    def settle(self, rows: Tensor, codec: Codec) -> None:
        """Pack what is still dense in these rows, bool [batch]."""
        edge, moved = self.num_packed, rows[:, None, None]
        new = codec.pack(self.dense["keys"], self.dense["values"])
        self.packed = {n: torch.cat((self.packed[n], column), dim=2) if edge else column for n, column in new.items()}
        dense = self.place[:, :, edge:]
        parts = (self.place[:, :, :edge], dense.masked_fill(~moved, EMPTY), dense.masked_fill(moved, EMPTY))
        self.place = torch.cat(parts, dim=2)
        self.notes = {name: torch.cat((note, note[:, :, edge:]), dim=2) for name, note in self.notes.items()}
        self.keep(self.held)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> KeptLayer:
        """A layer of what `change` gives for every tensor."""
        other = KeptLayer(self.heads)
        other.place = change(self.place)
        for name, columns in self.tables().items():
            setattr(other, name, {column: change(tensor) for column, tensor in columns.items()})
        return other

    def empty_row(self, row: int) -> None:
        """Forget a row."""
        self.place = self.place.clone()
        self.place[row] = EMPTY
        self.states = {name: state.clone() for name, state in self.states.items()}
        for state in self.states.values():
            state[row] = 0
        self.keep(self.held)

    def tensors(self) -> Iterator[Tensor]:
        """Everything held."""
        yield self.place
        for columns in self.tables().values():
            yield from columns.values()

    def tables(self) -> dict[str, dict[str, Tensor]]:
        """What is held beside places, by kind and name."""
        return {"dense": self.dense, "packed": self.packed, "notes": self.notes, "states": self.states}


class KeptCache:
    """The layers of one network, and what they take.

    groups: of each layer the numbers of its key heads, part by part; as a rule there is one. Selecting rows copies, so
    that beams, forks and users go on each for itself.

    >>> cache = KeptCache([[[0, 1, 2]]] * 30)
    >>> cache.layers[0][0].append(keys, values, places)  # doctest: +SKIP
    """

    def __init__(self, groups: Sequence[Sequence[Sequence[int]]]):
        self.layers = [[KeptLayer(heads) for heads in layer] for layer in groups]

    @property
    def parts(self) -> list[KeptLayer]:
        """All parts of all layers."""
        return [part for layer in self.layers for part in layer]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held: keys, values, places, notes."""
        return sum(tensor.nbytes for part in self.parts for tensor in part.tensors())

    @property
    def num_slots(self) -> int:
        """Slots of the part that has most."""
        return max(part.num_slots for part in self.parts)

    def select(self, rows: Tensor) -> KeptCache:
        """A cache whose row i is row rows[i] of this one, int64 [rows]."""
        return self.mapped(lambda tensor: tensor[rows.to(tensor.device)])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> KeptCache:
        """A cache of what `change` gives for every tensor; the same tensors where it changes nothing."""
        other = KeptCache([])
        other.layers = [[part.mapped(change) for part in layer] for layer in self.layers]
        return other

    def empty_row(self, row: int) -> None:
        """Forget a row in every layer."""
        for part in self.parts:
            part.empty_row(row)

    @property
    def groups(self) -> list[list[list[int]]]:
        """What the cache was made with."""
        return [[part.heads for part in layer] for layer in self.layers]

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything held, by names that `from_tensors` knows."""
        found = {}
        for index, part in enumerate(self.parts):
            found[f"{index}.place"] = part.place
            for table, columns in part.tables().items():
                found.update({f"{index}.{table}.{name}": tensor for name, tensor in columns.items()})
        return found

    @classmethod
    def from_tensors(cls, groups: Sequence[Sequence[Sequence[int]]], tensors: Mapping[str, Tensor]) -> KeptCache:
        """What `to_tensors` gave; LtmError where the names are no cache's."""
        cache = cls(groups)
        parts = cache.parts
        for name, tensor in tensors.items():
            index, _, rest = name.partition(".")
            table, _, column = rest.partition(".")
            if not index.isdecimal() or int(index) >= len(parts) or table not in _NAMES:
                raise LtmError(f"{name[:60]!r} is no part of a cache of {len(parts)} parts; the file is damaged")
            if table == "place":
                parts[int(index)].place = tensor
            else:
                parts[int(index)].tables()[table][column] = tensor
        return cache


def _positions(kept: Tensor) -> Tensor:
    """Which slots each head keeps, in order, int64 [batch, kv_heads, most kept]; heads that keep fewer go on with
    slots that they do not."""
    most = int(kept.sum(dim=-1).max()) if kept.numel() else 0
    return torch.argsort((~kept).to(torch.uint8), dim=-1, stable=True)[:, :, :most]


def _gather(columns: Tensor, positions: Tensor) -> Tensor:
    """Slots [batch, kv_heads, chosen] of [batch, kv_heads, slots, ...]."""
    batch, heads, slots = columns.shape[:3]
    first = torch.arange(batch * heads, device=positions.device).view(batch, heads, 1) * slots
    chosen = columns.flatten(0, 2).index_select(0, (positions + first).flatten())  # whole rows: faster than gather
    return chosen.view(*positions.shape, *columns.shape[3:])


def _with_zeros(note: Tensor, new: int) -> Tensor:
    """A note with so many further slots."""
    return torch.cat((note, note.new_zeros(*note.shape[:2], new, *note.shape[3:])), dim=2)
