"""The cache that a method hands to transformers' generate(): a window over an endless stream of tokens.

generate() counts every token it ever gave (the *logical* length). The model only ever sees the present *window*:
at most `window` valid tokens a row, at positions that start from 0. When a row is full and another token comes, its
oldest `stride` tokens leave (the method may remember them) and the rest is encoded anew from position 0, so that
positions never grow and no key in the window was computed with a context that is gone. Rows fill and spill each on
their own, whatever padding stands between them; beams are reordered with everything they carry.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ltm.compat import Cache, DynamicCache
from ltm.errors import ConfigError

if TYPE_CHECKING:
    from ltm.bank import Bank


class MemoryCache(Cache):
    """State of a stream of tokens: what is in the window, its keys and values, and what has left it.

    window: most valid tokens a row holds (None: no limit). stride: how many leave when a row is full; the first
    `num_sinks` tokens of the stream stay for ever. num_caches: how many networks keep keys and values here
    (backbone; backbone and SideNet). `notes` holds what else a method notes of the window's rows, [batch, ...] each;
    `scratch` what it can always work out again. Raises ConfigError where no token could ever leave.

    >>> cache = MemoryCache(window=1024, stride=512)
    >>> method(input_ids, cache=cache, use_cache=True)  # doctest: +SKIP
    """

    is_croppable = False
    """Tokens that left the window cannot come back, so assisted decoding must not roll back."""

    def __init__(self, window: int | None, stride: int = 1, num_sinks: int = 0, num_caches: int = 1):
        super().__init__(layers=[])
        if window is not None and not 0 < stride <= window - num_sinks:
            raise ConfigError(
                f"stride={stride} with window={window} and num_sinks={num_sinks}; "
                f"use a stride of 1 to {max(window - num_sinks, 1)}"
            )
        self.window, self.stride, self.num_sinks, self.num_caches = window, stride, num_sinks, num_caches
        self.spilled: Bank | None = None
        self.tokens: list[Tensor] | None = None
        self.valid = torch.empty(0, 0, dtype=torch.bool)
        self.caches: list[DynamicCache] = []
        self.memory_keys: Tensor | None = None
        self.memory_values: Tensor | None = None
        self.stale = False
        self.notes: dict[str, Tensor] = {}
        self.scratch: dict[str, Any] = {}
        self.logical_length = 0
        self.reset()

    # what another kind of cache may do in its own way

    def new_keys(self) -> DynamicCache:
        """Empty keys and values of one network."""
        return DynamicCache()

    def empty(self) -> MemoryCache:
        """A cache like this one that holds nothing."""
        return MemoryCache(self.window, self.stride, self.num_sinks, self.num_caches)

    def copy_keys(self, keys: DynamicCache, rows: Tensor) -> DynamicCache:
        """Rows of one network's keys and values as a cache of their own; appending to one does not touch the other."""
        copied = self.new_keys()
        for index, (own_keys, own_values) in enumerate(_keys_values(keys)):
            copied.update(own_keys[rows], own_values[rows], index)
        return copied

    # what a method's stream uses

    def begin(self, batch: int, device: torch.device) -> None:
        """Make room for `batch` rows at the first call; later calls must bring as many."""
        if self.tokens is None:
            self.tokens = [torch.empty(0, dtype=torch.long, device=device) for _ in range(batch)]
            self.valid = torch.empty(batch, 0, dtype=torch.bool, device=device)
        elif len(self.tokens) != batch:
            raise ConfigError(f"{batch} rows came, but the cache holds {len(self.tokens)}; reorder or reset it")

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
        """Throw the window's keys and values away, keep its tokens."""
        self.caches = [self.new_keys() for _ in range(self.num_caches)]
        self.valid = self.valid[:, :0]
        self.memory_keys = self.memory_values = None
        self.notes, self.scratch = {}, {}
        self.stale = False

    def move(self, device: torch.device) -> None:
        """Go on there, with a network that computes otherwise: what the window holds is to be encoded anew."""
        if self.tokens is not None:
            self.tokens = [row.to(device) for row in self.tokens]
            self.valid = self.valid.to(device)
            self.clear_keys()
            self.stale = True

    def append(self, ids: Tensor, mask: Tensor) -> None:
        """Note new tokens (ids and mask [batch, columns]) as part of the window."""
        for index in range(len(ids)):
            self._rows()[index] = torch.cat((self._rows()[index], ids[index][mask[index]]))
        self.logical_length += ids.shape[1]

    def keep_memory_columns(self, keys: Tensor, values: Tensor) -> None:
        """Append position-free keys and values of the memory layer, [batch, kv_heads, new columns, head_dim]."""
        if self.memory_keys is None or self.memory_values is None:
            self.memory_keys, self.memory_values = keys, values
        else:
            self.memory_keys = torch.cat((self.memory_keys, keys), dim=2)
            self.memory_values = torch.cat((self.memory_values, values), dim=2)

    def _rows(self) -> list[Tensor]:
        assert self.tokens is not None, "begin() comes first"
        return self.tokens

    def fork(self, rows: Tensor, into: MemoryCache | None = None) -> MemoryCache:
        """A stream of its own that starts where this one stands, one row for each entry of `rows`.

        Its logical length starts from 0: for generate() the past is not part of the prompt. `into`: an empty cache
        that becomes the fork (the caller already handed it out).
        """
        fork = into if into is not None else self.empty()
        fork.tokens = [self._rows()[int(row)] for row in rows]
        fork.valid = self.valid[rows]
        fork.caches = [self.copy_keys(keys, rows) for keys in self.caches]
        fork.notes = {name: note[rows] for name, note in self.notes.items()}
        fork.stale = self.stale
        return fork

    def as_it_stands(self) -> MemoryCache:
        """The same state as a cache of its own, for a call that may fail; what is held is shared, since going on with
        one makes tensors anew."""
        other = copy.copy(self)
        other.tokens = None if self.tokens is None else list(self.tokens)
        other.caches = [self._copy_layers(keys) for keys in self.caches]
        other.notes, other.scratch = dict(self.notes), {}
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
        self.tokens = self.spilled = None
        self.valid = torch.empty(0, 0, dtype=torch.bool)
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
        if self.memory_keys is not None and self.memory_values is not None:
            self.memory_keys, self.memory_values = self.memory_keys[indices], self.memory_values[indices]
        self.notes = {name: note[indices] for name, note in self.notes.items()}
        self.scratch = {}
        if self.spilled is not None:
            self.spilled = self.spilled.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.tokens is not None:
            self.batch_select_indices(torch.arange(len(self.tokens)).repeat_interleave(repeats))

    def crop(self, *args: Any, **kwargs: Any) -> None:
        raise ConfigError(
            "a MemoryCache cannot be rolled back: tokens may have left its window; decode without assistant"
        )

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
        return self.num_caches

    def nbytes(self) -> int:
        """Bytes of the keys and values held for the window."""
        held = [tensor for cache in self.caches for pair in _keys_values(cache) for tensor in pair]
        held += [kept for kept in (self.memory_keys, self.memory_values) if kept is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _keys_values(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer that has any, [batch, kv_heads, columns, head_dim]."""
    pairs = ((getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers)
    return [(keys, values) for keys, values in pairs if keys is not None and values is not None]
