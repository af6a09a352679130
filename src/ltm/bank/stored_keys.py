"""The search keys of a row as its search index sees them: as they lie in memory, decoded, or derived from keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ltm.bank.storage import FLOATS, SCALE
from ltm.bank.stored_chunks import StoredChunks


@dataclass(frozen=True)
class StoredSearchKeys:
    """`SearchKeys` of the chunks of a row; num_evicted: of the oldest, since the row's search index was made."""

    stored: StoredChunks
    num_evicted: int

    @property
    def num_chunks(self) -> int:
        return self.stored.num_chunks

    @property
    def num_kv_heads(self) -> int:
        return self.stored.layout.num_kv_heads

    @property
    def head_dim(self) -> int:
        return self.stored.layout.head_dim

    @property
    def device(self) -> torch.device:
        return self.stored.layout.device

    @property
    def dtype(self) -> torch.dtype:
        codec = self.stored.layout.codecs.get("search_keys")
        return self.stored.layout.dtype if codec is None or codec.bits is not None else FLOATS[codec.storage]

    @property
    def is_rotated(self) -> bool:
        codecs = self.stored.layout.codecs
        return codecs.get("search_keys", codecs["keys"]).bits is not None

    def center(self, layer: int) -> Tensor | None:
        center = self.stored.layout.key_center if self.is_rotated else None
        return None if center is None else center[layer]

    def parts(self, layer: int) -> list[Tensor] | None:
        in_memory = "search_keys" in self.stored.ring.buffers
        if not in_memory or self.stored.layout.codecs["search_keys"].bits is not None:
            return None
        return [part[layer] for part in self.stored.ring.parts("search_keys")]

    def decoded(self, layer: int, first: int, count: int) -> Tensor:
        codec = self.stored.layout.codecs.get("search_keys")
        if codec is None:
            return self._derived(layer, first, count)
        keys = self.stored.field("search_keys", first, count)[layer]
        if codec.bits is None:
            return keys
        return codec.decode(keys, self.stored.field("search_keys" + SCALE, first, count)[layer])

    def _derived(self, layer: int, first: int, count: int) -> Tensor:
        """Means of the chunks' stored keys."""
        layout = self.stored.layout
        codec, size = layout.codecs["keys"], layout.chunk_size
        counts = self.stored.field("counts", first, count)
        short = bool((counts < size).any())
        present = torch.arange(size, device=counts.device) < counts[:, None] if short else None  # [chunks, chunk_size]
        keys = self.stored.field("keys", first, count)[layer]  # [kv_heads, chunks, chunk_size, ...]
        if codec.bits is not None:
            return codec.mean_of_tokens(keys, self.stored.field("keys" + SCALE, first, count)[layer], present, counts)
        means = keys.sum(dim=2, dtype=torch.promote_types(keys.dtype, torch.float32)) / counts[:, None]
        return means.to(layout.dtype)  # what is missing of a short chunk is zero
