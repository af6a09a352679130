"""Stream: a window over an endless stream of tokens, as the cache that is handed to transformers' generate().

generate() counts every token it ever gave (the *logical* length). The model only ever sees the present *window*:
at most `window` valid tokens a row, at positions that start from 0. When a row is full and another token comes, its
oldest `stride` tokens leave (the method may remember them) and the rest is encoded anew from position 0, so that
positions never grow and no key in the window was computed with a context that is gone. Rows fill and spill each on
their own, whatever padding stands between them; beams are reordered with everything they carry.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ltm.compat import Cache, DynamicCache
from ltm.errors import ConfigError, LtmError
from ltm.memory import LEFT_OUT, LeftOut
from ltm.streams.window import Window, WindowReader

if TYPE_CHECKING:
    from ltm.memory import Memory

Self = TypeVar("Self", bound="Stream")


class Stream(Cache):
    """State of a stream of tokens: what is in the window, its keys and values, and what is carried along.

    window: most valid tokens a row holds (None: no limit). stride: how many leave when a row is full; the first
    `num_sinks` tokens of the stream stay for ever. num_networks: how many networks keep keys and values here
    (backbone; backbone and SideNet). Raises ConfigError where no token could ever leave.

    `carried`: what a method keeps for its rows: tensors [batch, ...], lists with an entry a row, or things with
    `select(rows)`; it follows rows, beams and forks. `note` carries what is of the window's present columns and goes
    when they are encoded anew; `scratch` is for what can always be worked out again. `memory`: what was read before the
    stream, None where memory is off; `given`: what its first call said of it.

    >>> stream = Stream(window=1024, stride=512)
    >>> method(input_ids, cache=stream, use_cache=True)  # doctest: +SKIP
    """

    is_croppable = False
    """Tokens that left the window cannot come back, so assisted decoding must not roll back."""

    def __init__(self, window: int | None, stride: int = 1, num_sinks: int = 0, num_networks: int = 1):
        super().__init__(layers=[])
        if window is not None and not 0 < stride <= window - num_sinks:
            raise ConfigError(
                f"stride={stride} with window={window} and num_sinks={num_sinks}; "
                f"use a stride of 1 to {max(window - num_sinks, 1)}"
            )
        self.window, self.stride, self.num_sinks, self.num_networks = window, stride, num_sinks, num_networks
        self.memory: Memory | None = None
        self.given: Memory | LeftOut | None = LEFT_OUT
        self.tokens: list[Tensor] | None = None
        self.valid = torch.empty(0, 0, dtype=torch.bool)
        self.caches: list[DynamicCache] = []
        self.stale = False
        self.carried: dict[str, Any] = {}
        self.scratch: dict[str, Any] = {}
        self.logical_length = 0
        self._noted: set[str] = set()
        self.reset()

    # what another kind of stream may do in its own way

    def new_keys(self) -> DynamicCache:
        """Empty keys and values of one network."""
        return DynamicCache()

    def empty(self: Self) -> Self:
        """A stream like this one that holds nothing."""
        other = copy.copy(self)
        other.reset()
        return other

    def copy_keys(self, keys: DynamicCache, rows: Tensor) -> DynamicCache:
        """Rows of one network's keys and values as a cache of their own; appending to one does not touch the other."""
        copied = self.new_keys()
        for index, (own_keys, own_values) in enumerate(_keys_values(keys)):
            copied.update(own_keys[rows], own_values[rows], index)
        return copied

    # the window

    def run(self, reader: WindowReader, ids: Tensor, mask: Tensor, rows: Tensor, keep: int = 0) -> Tensor:
        """Logits [batch, keep or tokens, vocab] of new tokens, piece by piece: as many columns as fit, then full rows
        spill, and on.

        ids: int64 [batch, tokens]; mask: bool [batch, tokens]; rows: each row's row of the memory; keep: 0 for all.
        """
        if ids.shape[1] == 0:
            raise LtmError("no tokens came; give at least one")
        self.begin(len(ids), ids.device)
        pieces, start = [], 0
        while start < ids.shape[1]:
            columns = self.columns_that_fit(mask[:, start:])
            if columns == 0:
                self._make_room(reader, mask[:, start])
                continue
            piece = slice(start, start + columns)
            start += columns
            wanted = min(max(keep - (ids.shape[1] - start), 0), columns)  # of the last `keep`, those in this piece
            new = Window(ids[:, piece], mask[:, piece], self, rows, (wanted or 1) if keep else 0, self.memory)
            every = reader.weighs_every_token or reader.tracing is not None
            if keep and not wanted and start < ids.shape[1] and not every:
                self._skip(reader, new)
                continue
            logits = self._advance(reader, new)
            if wanted or not keep:
                pieces.append(logits[:, -wanted:])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def _make_room(self, reader: WindowReader, incoming: Tensor) -> None:
        """Let every full row that gets another token spill its oldest tokens."""
        for row in self.full_rows(incoming):
            columns = self.columns_of(row)[self.num_sinks : self.num_sinks + self.stride]
            reader.spill(row, self.drop_oldest(row), columns, self)

    def _skip(self, reader: WindowReader, new: Window) -> None:
        """Take in columns that fill the window, so that it moves on next; encode only what will be spilled.

        Nobody wants their logits, and what stays of a moved window is encoded anew: see `Reader.encode_leaving`.
        """
        self.append(new.ids, new.mask)
        window_ids, window_mask = self.context()
        self.clear_keys()
        self.valid = window_mask
        reader.encode_leaving(new._replace(ids=window_ids, mask=window_mask))

    def _advance(self, reader: WindowReader, new: Window) -> Tensor:
        """Run new columns after the window's; a stale window is encoded anew in the same pass."""
        if reader.slides and self.holds_tokens and not bool(new.mask.all()):
            return self._advance_packed(reader, new)
        window = new._replace(mask=torch.cat((self.valid, new.mask), dim=1))
        if self.stale:
            context_ids, context_mask = self.context()
            self.clear_keys()
            window = window._replace(
                ids=torch.cat((context_ids, new.ids), dim=1),
                mask=torch.cat((context_mask, new.mask), dim=1),
                keep=new.keep or new.ids.shape[1],
                fresh=torch.cat((torch.zeros_like(context_mask), new.mask), dim=1),
            )
        noted = 0 if reader.tracing is None else len(reader.tracing.steps)
        logits = reader.encode(window)
        if reader.tracing is not None:
            reader.tracing.keep_last(new.ids.shape[1], since=noted)
        self.valid = window.mask
        self.append(new.ids, new.mask)
        self.stale = reader.slides and not bool(new.mask[:, -1].all())
        return logits

    def _advance_packed(self, reader: WindowReader, new: Window) -> Tensor:
        """The same where padding would end up between tokens of a row: each row is packed and encoded anew.

        transformers counts sliding windows in columns, so that such padding would eat into them.
        """
        self.append(new.ids, new.mask)
        packed_ids, packed_mask = self.context()
        self.clear_keys()
        counts, columns = new.mask.sum(dim=1, keepdim=True), torch.arange(packed_ids.shape[1], device=packed_ids.device)
        fresh, keep = columns >= len(columns) - counts, max(int(counts.max()), 1)
        packed = reader.encode(new._replace(ids=packed_ids, mask=packed_mask, keep=keep, fresh=fresh))
        self.valid = packed_mask
        logits = packed.new_zeros(*new.ids.shape, packed.shape[-1])
        for row, valid in enumerate(new.mask):
            logits[row, valid] = packed[row, packed.shape[1] - int(valid.sum()) :]
        return logits

    def begin(self, batch: int, device: torch.device) -> None:
        """Make room for `batch` rows at the first call; later calls must bring as many."""
        if self.tokens is None:
            self.tokens = [torch.empty(0, dtype=torch.long, device=device) for _ in range(batch)]
            self.valid = torch.empty(batch, 0, dtype=torch.bool, device=device)
        elif len(self.tokens) != batch:
            raise ConfigError(f"{batch} rows came, but the cache holds {len(self.tokens)}; reorder or reset it")

    @property
    def shape(self) -> tuple[Any, ...]:
        """Window, stride, sinks and networks: what a stream must share with another to go on from it."""
        return self.window, self.stride, self.num_sinks, self.num_networks

    @property
    def holds_tokens(self) -> bool:
        """Whether any row's window holds something."""
        return any(len(row) for row in self._rows())

    def columns_that_fit(self, mask: Tensor) -> int:
        """How many leading columns of new tokens (mask bool [batch, columns]) fit before some row must spill."""
        if self.window is None:
            return mask.shape[1]
        room = torch.tensor([self.window - len(row) for row in self._rows()], device=mask.device)
        fits = (mask.cumsum(dim=1) <= room[:, None]).all(dim=0)  # never true again once false
        return int(fits.sum())

    def full_rows(self, incoming: Tensor) -> list[int]:
        """Rows whose window is full and that are about to get one more token (incoming bool [batch])."""
        return [row for row, new in enumerate(incoming.tolist()) if new and len(self._rows()[row]) == self.window]

    def drop_oldest(self, row: int) -> Tensor:
        """Take a row's oldest tokens (after the sinks) out of its window; returns their ids [stride]."""
        tokens = self._rows()[row]
        sinks, leaving = tokens[: self.num_sinks], tokens[self.num_sinks : self.num_sinks + self.stride]
        self._rows()[row] = torch.cat((sinks, tokens[self.num_sinks + self.stride :]))
        self.stale = True
        return leaving

    def columns_of(self, row: int) -> Tensor:
        """Physical columns of a row's valid tokens, in order, [tokens]."""
        return self.valid[row].nonzero().squeeze(-1)

    def context(self) -> tuple[Tensor, Tensor]:
        """The windows as a left-padded batch, ids and mask [batch, longest]: what must be encoded anew when stale."""
        longest = max(len(row) for row in self._rows())
        ids = torch.zeros(len(self._rows()), longest, dtype=torch.long, device=self.valid.device)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for index, row in enumerate(self._rows()):
            ids[index, longest - len(row) :] = row
            mask[index, longest - len(row) :] = True
        return ids, mask

    def clear_keys(self) -> None:
        """Throw the window's keys and values away, and what was noted of them; keep its tokens."""
        self.caches = [self.new_keys() for _ in range(self.num_networks)]
        self.valid = self.valid[:, :0]
        for name in self._noted:
            self.carried.pop(name, None)
        self._noted, self.scratch = set(), {}
        self.stale = False

    def move(self, device: torch.device) -> None:
        """Go on there, with a network that computes otherwise: what the window holds is to be encoded anew."""
        if self.tokens is not None:
            self.tokens = [row.to(device) for row in self.tokens]
            self.valid = self.valid.to(device)
            self.clear_keys()
            self.stale = True

    def forget_row(self, row: int) -> None:
        """Drop all tokens of a row; what the others hold is encoded anew with the next token."""
        self._rows()[row] = self._rows()[row][:0]
        self.stale = True

    def append(self, ids: Tensor, mask: Tensor) -> None:
        """Note new tokens (ids and mask [batch, columns]) as part of the window."""
        for index in range(len(ids)):
            self._rows()[index] = torch.cat((self._rows()[index], ids[index][mask[index]]))
        self.logical_length += ids.shape[1]

    def carry(self, name: str, make: Callable[[], Any]) -> Any:
        """What is carried under a name, made at first use."""
        if name not in self.carried:
            self.carried[name] = make()
        return self.carried[name]

    def note(self, name: str, value: Any) -> None:
        """Carry something of the window's present columns: it goes when they are encoded anew."""
        self.carried[name] = value
        self._noted.add(name)

    def note_columns(self, name: str, states: Tensor) -> None:
        """Append to what is noted under a name: [batch, heads, new columns, ...]."""
        held = self.carried.get(name)
        self.note(name, states if held is None else torch.cat((held, states), dim=2))

    def _rows(self) -> list[Tensor]:
        assert self.tokens is not None, "begin() comes first"
        return self.tokens

    def fork(self: Self, rows: Tensor, into: Self | None = None) -> Self:
        """A stream of its own that goes on where this one stands, one row for each entry of `rows`.

        into: an empty stream that becomes the fork; what it was given so far counts as its logical length (0 for one
        that generate() is to fill: what was read is not part of the prompt).
        """
        fork = self.empty() if into is None else into
        fork.tokens = [self._rows()[int(row)] for row in rows]
        fork.valid = self.valid[rows]
        fork.caches = [self.copy_keys(keys, rows) for keys in self.caches]
        fork.carried = {name: _follow(value, rows) for name, value in self.carried.items()}
        fork.stale, fork._noted = self.stale, set(self._noted)
        if into is None:
            fork.logical_length, fork.memory, fork.given = self.logical_length, self.memory, self.given
        return fork

    def as_it_stands(self: Self) -> Self:
        """The same state as a stream of its own, for a call that may fail; what is held is shared, since going on with
        one makes tensors anew."""
        other = copy.copy(self)
        other.tokens = None if self.tokens is None else list(self.tokens)
        other.caches = [self._copy_layers(keys) for keys in self.caches]
        everyone = torch.arange(len(self.valid))
        other.carried = {
            name: value if isinstance(value, Tensor) else _follow(value, everyone)
            for name, value in self.carried.items()
        }
        other._noted, other.scratch = set(self._noted), {}
        return other

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        """A copy that shares nothing but the memory, which a stream only reads."""
        memo.update({id(shared): shared for shared in (self.memory, self.given)})
        other = copy.copy(self)
        other.__dict__ = {name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()}
        return other

    def _copy_layers(self, keys: DynamicCache) -> DynamicCache:
        copied = self.new_keys()
        copied.layers = [copy.copy(layer) for layer in keys.layers]
        return copied

    # what transformers calls

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Logical length: all columns ever given, spilled or not, padding included."""
        return self.logical_length

    def get_max_length(self, layer_idx: int | None = 0) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name in the first releases of transformers 5

    def reset(self) -> None:
        """Forget everything; the cache is as new."""
        self.tokens = self.memory = None
        self.given = LEFT_OUT
        self.valid = torch.empty(0, 0, dtype=torch.bool)
        self.carried = {}
        self.clear_keys()
        self.logical_length = 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows follow their beams: row i continues what row beam_idx[i] was."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.tokens is None:
            return
        self.tokens = [self.tokens[int(index)] for index in indices]
        self.valid = self.valid[indices]
        for cache in self.caches:
            if cache.get_seq_length():
                cache.batch_select_indices(indices)
        self.carried = {name: _follow(value, indices) for name, value in self.carried.items()}
        self.scratch = {}

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.tokens is not None:
            self.batch_select_indices(torch.arange(len(self.tokens)).repeat_interleave(repeats))

    def crop(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError("a stream cannot be rolled back: tokens may have left its window; decode without assistant")

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def max_cache_len(self) -> int:
        return -1

    @property
    def is_initialized(self) -> bool:
        return self.tokens is not None

    def __len__(self) -> int:
        return self.num_networks

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held for the window, and of the tensors carried along."""
        held = [tensor for cache in self.caches for pair in _keys_values(cache) for tensor in pair]
        held += [value for value in self.carried.values() if isinstance(value, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _keys_values(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer that has any, [batch, kv_heads, columns, head_dim]."""
    pairs = ((getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers)
    return [(keys, values) for keys, values in pairs if keys is not None and values is not None]


def _follow(value: Any, rows: Tensor) -> Any:
    """What is carried, for these rows."""
    if isinstance(value, list):
        return [value[int(row)] for row in rows]
    return value[rows] if isinstance(value, Tensor) else value.select(rows)
