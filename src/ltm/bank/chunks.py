"""What is stored of a chunk and of an event, and how a run of tokens is cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ltm.bank.storage import BITS, DERIVED, ChunkCodec
from ltm.bank.stored_tensor import Chunks, Field
from ltm.errors import BankError

NO_DOCUMENT = -1
"""In the field `documents`: a chunk that was written without one."""


class EventCut(NamedTuple):
    """How the tokens of one write fall into events: sizes int64 [events], which add up to the tokens, and their
    representative keys [layers, events, event_heads * head_dim]."""

    sizes: Tensor
    keys: Tensor


@dataclass(frozen=True)
class ChunkLayout:
    """Shapes of everything that a bank stores.

    keys and values [layers, kv_heads, chunks, chunk_size, head_dim]; search_keys without chunk_size: means of the
    keys. Each of the three as its storage says (None: in `dtype`; see `ChunkCodec`): what is quantised has a field
    of scales beside it, derived search keys are not there. numbers [chunks]: the chunk's slot, under the name that it
    has in files; counts [chunks]: its tokens, fewer
    than chunk_size at the end of a write; and on the host documents [chunks], token_ids [chunks, chunk_size], spans
    [chunks, 2]: the chunk's range of characters (-1: not known). key_center: float32 [layers, kv_heads, head_dim],
    taken from keys before they are quantised.

    With event_heads there are no search_keys but events, in the order of their tokens: event_keys [layers, events,
    event_heads * head_dim] in `dtype`; and on the host starts [events]: the slot of the first token, and sizes
    [events]. offload: chunks above which a row's keys and values lie in temporary files.
    """

    num_layers: int
    num_kv_heads: int
    chunk_size: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    key_storage: str | None = None
    value_storage: str | None = None
    search_storage: str | None = None
    key_center: Tensor | None = field(default=None, compare=False)
    event_heads: int | None = None
    offload: int | None = None

    @cached_property
    def codecs(self) -> dict[str, ChunkCodec]:
        """How keys, values and search keys are stored; search keys are missing where they are derived, or events take
        their place."""
        own = str(self.dtype).removeprefix("torch.")
        entry = (self.chunk_size, self.head_dim)
        codecs = {
            "keys": ChunkCodec(self.key_storage or own, entry),
            "values": ChunkCodec(self.value_storage or own, entry),
        }
        if self.search_storage != DERIVED and self.event_heads is None:
            codecs["search_keys"] = ChunkCodec(self.search_storage or own, (self.head_dim,))
        return codecs

    @cached_property
    def heavy(self) -> tuple[str, ...]:
        """The fields that make up most of a bank, which may stay on disk: those of keys and values."""
        return tuple(name for codec in ("keys", "values") for name in self._stored(codec))

    @cached_property
    def of_search(self) -> tuple[str, ...]:
        """The fields of search keys; none where they are derived, or events take their place."""
        return tuple(self._stored("search_keys")) if "search_keys" in self.codecs else ()

    @cached_property
    def fields(self) -> dict[str, Field]:
        cpu, int32 = torch.device("cpu"), torch.int32
        return {
            **{name: stored for codec in self.codecs for name, stored in self._stored(codec).items()},
            "numbers": Field((), (), torch.int64, self.device),
            "counts": Field((), (), int32, self.device),
            "documents": Field((), (), int32, cpu),
            "token_ids": Field((), (self.chunk_size,), int32, cpu),
            "spans": Field((), (2,), int32, cpu),
        }

    @cached_property
    def event_fields(self) -> dict[str, Field]:
        """What is stored of an event; empty without events."""
        if self.event_heads is None:
            return {}
        cpu = torch.device("cpu")
        return {
            "event_keys": Field((self.num_layers,), (self.event_heads * self.head_dim,), self.dtype, self.device),
            "starts": Field((), (), torch.int64, cpu),
            "sizes": Field((), (), torch.int32, cpu),
        }

    @cached_property
    def all_fields(self) -> dict[str, Field]:
        """Of chunks and of events: what a shard holds."""
        return {**self.fields, **self.event_fields}

    def _stored(self, name: str) -> dict[str, Field]:
        fields = self.codecs[name].fields(name, (self.num_layers, self.num_kv_heads), self.device)
        offload = None if name == "search_keys" else self.offload
        return {part: replace(stored, offload=offload) for part, stored in fields.items()}

    @property
    def bytes_per_chunk(self) -> int:
        """Of all fields together."""
        return sum(stored.bytes_per_chunk for stored in self.fields.values())

    @property
    def bytes_per_event(self) -> int:
        """Of all fields of events together; 0 without events."""
        return sum(stored.bytes_per_chunk for stored in self.event_fields.values())

    def center(self, name: str) -> Tensor | None:
        """What is taken from "keys" and "search_keys" that are quantised: [layers, kv_heads, head_dim]."""
        return None if name == "values" or self.codecs[name].bits is None else self.key_center

    def events(self, cut: EventCut) -> Chunks:
        """Events as they are stored, but for starts, which count from the write's first token."""
        return {
            "event_keys": cut.keys.detach().to(device=self.device, dtype=self.dtype),
            "starts": (torch.cumsum(cut.sizes, dim=0) - cut.sizes).cpu(),
            "sizes": cut.sizes.to(torch.int32).cpu(),
        }

    def check_events(self, cut: EventCut | None, tokens: int) -> None:
        """Raise BankError where a write's events are missing, of a wrong shape or do not cover its tokens."""
        if (cut is None) != (self.event_heads is None):
            raise BankError("a bank with event_heads is written to with events=[...], any other without")
        if cut is None or self.event_heads is None:
            return
        shape = (self.num_layers, len(cut.sizes), self.event_heads * self.head_dim)
        if tuple(cut.keys.shape) != shape or int(cut.sizes.sum()) != tokens or int(cut.sizes.min()) < 1:
            raise BankError(
                f"events of sizes {cut.sizes.tolist()} with keys {tuple(cut.keys.shape)} for {tokens} tokens; "
                f"give sizes of 1 or more that add up to the tokens, and keys {shape}: layers, events, "
                f"event_heads * head_dim"
            )

    def cut(
        self, keys: Tensor, values: Tensor, token_ids: Tensor, spans: Tensor | None, document: int | None
    ) -> Chunks:
        """Tokens of one row, in order, as chunks without slots; the last one may be short, its rest is zero.

        keys and values: [layers, kv_heads, tokens, head_dim]; token_ids: [tokens]; spans: [tokens, 2] or None.
        """
        tokens, size = token_ids.shape[0], self.chunk_size
        num_chunks = -(-tokens // size)
        counts = torch.full((num_chunks,), size, dtype=torch.int32, device=self.device)
        counts[-1:] = tokens - size * (num_chunks - 1)
        chunked = {
            "keys": self._chunked(keys.to(device=self.device, dtype=self.dtype), 2),
            "values": self._chunked(values.to(device=self.device, dtype=self.dtype), 2),
        }
        if "search_keys" in self.codecs:
            chunked["search_keys"] = self.means(chunked["keys"], counts)
        return {
            **{part: t for name, whole in chunked.items() for part, t in self.encode(name, whole).items()},
            "counts": counts,
            "documents": torch.full((num_chunks,), NO_DOCUMENT if document is None else document, dtype=torch.int32),
            "token_ids": self._chunked(token_ids.to("cpu", torch.int32), 0),
            "spans": self._ranges(spans, num_chunks),
        }

    def encode(self, name: str, tensor: Tensor) -> Chunks:
        """ "keys", "values" or "search_keys" [layers, kv_heads, chunks, ...] as they are stored."""
        return self.codecs[name].encode(name, tensor, self.center(name))

    def means(self, keys: Tensor, counts: Tensor) -> Tensor:
        """Search keys [layers, kv_heads, chunks, head_dim] of keys whose missing tokens are zero, in the bank's dtype
        or, where they are kept in higher precision, float32."""
        total = keys.sum(dim=3, dtype=torch.promote_types(self.dtype, torch.float32))
        means = total / counts[:, None]
        return means if self.search_storage in ("float32", *BITS) else means.to(self.dtype)

    def _ranges(self, spans: Tensor | None, num_chunks: int) -> Tensor:
        """The range of characters of each chunk, int32 [chunks, 2], from those of tokens [tokens, 2]."""
        if spans is None:
            return torch.full((num_chunks, 2), -1, dtype=torch.int32)
        spans = spans.to("cpu", torch.int32)
        known = spans[:, 0] >= 0
        last = torch.iinfo(torch.int32).max
        starts = self._chunked(spans[:, 0].where(known, torch.tensor(last, dtype=torch.int32)), 0, last).amin(dim=1)
        ends = self._chunked(spans[:, 1].where(known, torch.tensor(-1, dtype=torch.int32)), 0, -1).amax(dim=1)
        return torch.stack((starts.where(ends >= 0, ends), ends), dim=1)

    def _chunked(self, tensor: Tensor, axis: int, fill: int = 0) -> Tensor:
        """[..., tokens, ...] to [..., chunks, chunk_size, ...], filled up at the end."""
        missing = -tensor.shape[axis] % self.chunk_size
        tensor = tensor.detach()
        if missing:
            shape = list(tensor.shape)
            shape[axis] = missing
            tensor = torch.cat((tensor, tensor.new_full(shape, fill)), dim=axis)
        return tensor.unflatten(axis, (-1, self.chunk_size))
