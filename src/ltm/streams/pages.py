"""Pages of a cache: keys and values in buffers that grow, and element-wise bounds of the keys of each page.

A *page* is `page_size` consecutive tokens of a row, counted from the row's first token: padding belongs to no page, so
that a row has the same pages whatever batch it is in. Bounds are of keys as they are cached, position included.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from ltm.compat import DynamicCache, DynamicLayer
from ltm.streams.stream import Stream

FIRST_TOKENS = 256
"""Room that the first keys make; from there it grows by a quarter at a time."""


class Columns:
    """Where the tokens of a batch lie in its cache. mask: bool [batch, columns], False = padding."""

    def __init__(self, mask: Tensor):
        self.mask = mask
        self.unpadded = bool(mask.all())
        batch, columns = mask.shape
        if self.unpadded:
            self.places = torch.arange(columns, device=mask.device).expand(batch, -1)
        else:
            self.places = (mask.long().cumsum(dim=1) - 1).clamp(min=0)

    @property
    def num_tokens(self) -> int:
        """Tokens of the longest row."""
        return self.mask.shape[1] if self.unpadded else int(self.places[:, -1].max()) + 1

    @cached_property
    def of_tokens(self) -> Tensor:
        """The column of each token, int64 [batch, columns]; what follows a row's last token means nothing."""
        return torch.argsort((~self.mask).to(torch.uint8), dim=1, stable=True)

    def locate(self, tokens: Tensor) -> Tensor:
        """Columns of tokens given by their number in the row, any number of axes after the batch."""
        if self.unpadded:
            return tokens
        return self.of_tokens.gather(1, tokens.flatten(1)).view(tokens.shape)


class PageBounds:
    """For each page the largest value of every key channel, and of every channel's negative.

    bounds: [batch, kv_heads, pages, 2 * head_dim], in float32 at least (half of a sum of bfloat16 products would tie);
    pages without tokens hold the dtype's lowest value. The bound of q with any key of a page is then one product:
    relu(q) . largest + relu(-q) . largest of negatives = sum_d max(q_d m_d, q_d M_d).
    """

    def __init__(self, page_size: int):
        self.page_size = page_size
        self.bounds: Tensor | None = None
        self.columns = 0
        """Columns of the cache that the bounds cover."""

    def extend(self, keys: Tensor, columns: Columns) -> None:
        """Take in the columns that came since. keys: all, [batch, kv_heads, columns, head_dim]."""
        first, self.columns = self.columns, keys.shape[2]
        if first == keys.shape[2]:
            return
        dtype = torch.promote_types(keys.dtype, torch.float32)
        new = keys[:, :, first:].to(dtype)
        signed = torch.cat((new, -new), dim=-1)  # [batch, kv_heads, new columns, 2 * head_dim]
        self._reserve(signed, -(-columns.num_tokens // self.page_size))
        if signed.shape[2] == 1:
            self._add_token(signed[:, :, 0], columns.places[:, first], columns.mask[:, first])
        elif columns.unpadded:
            self._add_tokens(slice(None), signed, first)
        else:
            for row, mask in enumerate(columns.mask[:, first:]):
                if bool(mask.any()):
                    start = int(columns.places[row, first:][mask][0])
                    self._add_tokens(slice(row, row + 1), signed[row : row + 1, :, mask], start)

    def select(self, rows: Tensor) -> PageBounds:
        """A copy with these rows."""
        other = PageBounds(self.page_size)
        other.columns = self.columns
        other.bounds = None if self.bounds is None else self.bounds[rows]
        return other

    def _add_token(self, signed: Tensor, places: Tensor, mask: Tensor) -> None:
        """One column: signed [batch, kv_heads, 2 * head_dim]; places and mask [batch]."""
        assert self.bounds is not None
        rows, pages = torch.arange(len(signed), device=signed.device), places // self.page_size
        held = self.bounds[rows, :, pages]
        self.bounds[rows, :, pages] = torch.where(mask[:, None, None], torch.maximum(held, signed), held)

    def _add_tokens(self, rows: slice, signed: Tensor, start: int) -> None:
        """Consecutive tokens of rows from the start-th on: signed [rows, kv_heads, tokens, 2 * head_dim]."""
        assert self.bounds is not None
        before, after = start % self.page_size, -(start + signed.shape[2]) % self.page_size
        lowest = torch.finfo(signed.dtype).min
        paged = pad(signed, (0, 0, before, after), value=lowest).unflatten(2, (-1, self.page_size)).amax(dim=3)
        first = start // self.page_size
        held = self.bounds[rows, :, first : first + paged.shape[2]]
        torch.maximum(held, paged, out=held)

    def _reserve(self, signed: Tensor, pages: int) -> None:
        """Room for so many pages."""
        held = 0 if self.bounds is None else self.bounds.shape[2]
        if pages <= held:
            return
        room = max(pages, held + held // 4, FIRST_TOKENS // self.page_size)
        batch, heads, _, width = signed.shape
        grown = signed.new_full((batch, heads, room, width), torch.finfo(signed.dtype).min)
        if self.bounds is not None:
            grown[:, :, :held] = self.bounds
        self.bounds = grown


class PagedLayer(DynamicLayer):
    """Keys and values of one layer in buffers [batch, kv_heads, room, head_dim] that are written in place.

    `keys` and `values` are views of what is held; a step that adds a token copies no other one. Room is made in whole
    pages and filled with zeros, so that a page can be fetched before it is full.
    """

    def __init__(self, page_size: int = 1):
        super().__init__()
        self.page_size = page_size
        self.key_buffer: Tensor | None = None
        self.value_buffer: Tensor | None = None
        self.pages = PageBounds(page_size)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append [batch, kv_heads, new columns, head_dim]; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        length = held + key_states.shape[2]
        self.key_buffer = self._with_room(self.key_buffer, key_states, held, length)
        self.value_buffer = self._with_room(self.value_buffer, value_states, held, length)
        self.key_buffer[:, :, held:length] = key_states
        self.value_buffer[:, :, held:length] = value_states
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]
        return self.held

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        """Keys and values, where there are some."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def select(self, rows: Tensor) -> PagedLayer:
        """A copy with these rows, in buffers of its own."""
        other = PagedLayer(self.page_size)
        if self.get_seq_length():
            keys, values = self.held
            other.update(keys[rows], values[rows])
        other.pages = self.pages.select(rows)
        return other

    def batch_select_indices(self, indices: Tensor) -> None:
        chosen = self.select(indices)
        self.key_buffer, self.value_buffer, self.pages = chosen.key_buffer, chosen.value_buffer, chosen.pages
        self.keys, self.values = chosen.keys, chosen.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def _with_room(self, buffer: Tensor | None, states: Tensor, held: int, length: int) -> Tensor:
        """A buffer for `length` columns that begins with what is held."""
        room = 0 if buffer is None else buffer.shape[2]
        if buffer is not None and length <= room:
            return buffer
        room = max(length + FIRST_TOKENS, room + room // 4)
        room = -(-room // self.page_size) * self.page_size
        batch, heads, _, width = states.shape
        grown = states.new_zeros(batch, heads, room, width)
        if buffer is not None:
            grown[:, :, :held] = buffer[:, :, :held]
        return grown


class PagedCache(Stream):
    """A cache without end whose keys lie in pages, and that knows which of its tokens were read.

    page_size: tokens of a page. `reading` is set while tokens are taken in as the past: they are marked as read.

    >>> cache = PagedCache(page_size=16)
    >>> method(input_ids, cache=cache, use_cache=True)  # doctest: +SKIP
    """

    def __init__(self, page_size: int):
        self.page_size = page_size
        self.reading = False
        super().__init__(window=None)

    @property
    def read_marks(self) -> list[Tensor]:
        """For each token of each row, whether it was read, bool [tokens]."""
        return self.carried.get("read_marks", [])

    @property
    def shape(self) -> tuple[Any, ...]:
        return *super().shape, self.page_size

    def reset(self) -> None:
        super().reset()
        self.reading = False

    def new_keys(self) -> DynamicCache:
        keys = DynamicCache()
        keys.layer_class_to_replicate = partial(PagedLayer, self.page_size)  # type: ignore[assignment]  # it is called
        return keys

    def copy_keys(self, keys: DynamicCache, rows: Tensor) -> DynamicCache:
        copied = self.new_keys()
        copied.layers = [layer.select(rows) for layer in _paged(keys)]
        return copied

    def layer(self, index: int) -> PagedLayer:
        """A layer of the backbone's keys."""
        return _paged(self.caches[0])[index]

    def update_bounds(self, layers: Iterable[int]) -> None:
        """Bring the bounds of these layers' pages up to date, so that those who fork from here need not."""
        if self.stale or not self.caches[0].layers:
            return
        columns = Columns(self.valid)
        for index in layers:
            self.layer(index).pages.extend(self.layer(index).held[0], columns)

    def begin(self, batch: int, device: torch.device) -> None:
        super().begin(batch, device)
        self.carried.setdefault("read_marks", [torch.empty(0, dtype=torch.bool, device=device) for _ in range(batch)])

    def move(self, device: torch.device) -> None:
        super().move(device)
        if self.tokens is not None:
            self.carried["read_marks"] = [marks.to(device) for marks in self.read_marks]

    def append(self, ids: Tensor, mask: Tensor) -> None:
        super().append(ids, mask)
        for row, new in enumerate(mask.sum(dim=1).tolist()):
            marks = self.read_marks[row]
            self.read_marks[row] = torch.cat((marks, marks.new_full((new,), self.reading)))

    def was_read(self, columns: Columns, num_new: int) -> Tensor:
        """Which of the last columns hold tokens that were read, bool [batch, num_new]; padding counts as read.

        Tokens that were not appended yet are what is being done now.
        """
        marks = torch.full_like(columns.mask, self.reading)
        if num_new == 1 and columns.mask.shape[1] > 1:  # it has to be new
            return (marks | ~columns.mask)[:, -1:]
        for row, own in enumerate(self.read_marks):
            held = columns.mask[row] & (columns.places[row] < len(own))
            marks[row, held] = own[: int(held.sum())]
        return (marks | ~columns.mask)[:, -num_new:]

    def as_it_stands(self) -> PagedCache:
        """Buffers are shared, of which going on writes only what lies behind; the pages' bounds are counted anew."""
        other = super().as_it_stands()
        for layer in (layer for keys in other.caches for layer in _paged(keys)):
            layer.pages = PageBounds(self.page_size)
        return other

    def forget_row(self, row: int) -> None:
        super().forget_row(row)
        self.read_marks[row] = self.read_marks[row][:0]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers and the pages' bounds, room to grow included."""
        buffers = [
            buffer
            for keys in self.caches
            for layer in _paged(keys)
            for buffer in (layer.key_buffer, layer.value_buffer, layer.pages.bounds)
        ]
        return sum(buffer.numel() * buffer.element_size() for buffer in buffers if buffer is not None)


def _paged(keys: DynamicCache) -> list[PagedLayer]:
    """The layers of keys and values that a `PagedCache` made."""
    return cast("list[PagedLayer]", keys.layers)
