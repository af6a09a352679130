"""Search structures over a row's search keys, behind one interface: exact, approximate, faiss and Qdrant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ltm.bank.search.approximate import ApproximateIndex, AutoIndex
from ltm.bank.search.blockwise import search_all
from ltm.bank.search.faiss import FaissIndex
from ltm.bank.search.keys import SearchKeys
from ltm.bank.search.qdrant import QdrantIndex


class SearchIndex(Protocol):
    """Finds chunks of one row; it looks at the row's keys when asked, so a write costs it nothing."""

    def search(self, keys: SearchKeys, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Scores and indices (0 the oldest chunk) of the best chunks, [kv_heads, queries, top_k], best first.

        queries: [kv_heads, queries, head_dim], of the keys' dtype and device; top_k: 1 to all chunks.
        """
        ...

    def search_joint(self, keys: SearchKeys, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """As `search`, with scores summed over heads: one ranking [queries, top_k]."""
        ...

    def kept(self, indices: Tensor, num_evicted: int) -> SearchIndex:
        """What serves the row after all but the chunks at these indices (int64, ascending) were removed.

        num_evicted: the row's, before; it counts from 0 again then."""
        ...


class ExactIndex:
    """Inner products with every search key, read where they are stored; see `search_all`."""

    def search(self, keys: SearchKeys, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        return search_all(keys, layer, queries, top_k)

    def search_joint(self, keys: SearchKeys, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        return search_all(keys, layer, queries, top_k, jointly=True)

    def kept(self, indices: Tensor, num_evicted: int) -> SearchIndex:
        return ExactIndex()


INDEXES: dict[str, Callable[[], SearchIndex]] = {
    "auto": AutoIndex,
    "exact": ExactIndex,
    "approximate": ApproximateIndex,
    "faiss": FaissIndex,
    "qdrant": QdrantIndex,
}
"""What makes the index of a row, by the name that a config gives."""
