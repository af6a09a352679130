"""Search structures over a row's chunk keys, behind one interface: exact, approximate, faiss and Qdrant."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ltm.bank.search.approximate import ApproximateIndex, AutoIndex
from ltm.bank.search.blockwise import search_keys_of, search_row
from ltm.bank.search.qdrant import QdrantIndex
from ltm.errors import LtmError

if TYPE_CHECKING:
    from ltm.bank.rows import Row


class ChunkIndex(Protocol):
    """Finds chunks of the row it belongs to; it looks at the row when asked, so a write costs it nothing."""

    def search(self, row: Row, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Scores and places in order (0 the oldest chunk) of the best chunks, [kv_heads, queries, top_k], best first.

        queries: [kv_heads, queries, head_dim] in the row's dtype and place; top_k: 1 to the row's chunks.
        """
        ...

    def search_joint(self, row: Row, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """As `search`, with scores summed over heads: one ranking [queries, top_k]."""
        ...

    def kept(self, places: Tensor, num_dropped: int) -> ChunkIndex:
        """What serves the row after all but the chunks at these places in order (int64, ascending) were removed.

        num_dropped: the row's, before; it counts from 0 again then."""
        ...


class ExactIndex:
    """Inner products with every chunk key, read where they are stored; see `search_row`."""

    def kept(self, places: Tensor, num_dropped: int) -> ChunkIndex:
        return type(self)()

    def search_joint(self, row: Row, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        return search_row(row, layer, queries, top_k, jointly=True)

    def search(self, row: Row, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        return search_row(row, layer, queries, top_k)


class FaissIndex(ExactIndex):
    """One faiss.IndexFlatIP for each layer and kv head, brought up to date before a search: new chunks are added,
    evicted ones removed (a row that deletes chunks elsewhere takes a new index). On the host, in float32; over all
    heads together it searches as the exact index does.

    Raises LtmError where faiss is not installed.
    """

    def __init__(self) -> None:
        self.faiss = _import_faiss()
        self.layers: dict[int, list[Any]] = {}
        self.held: dict[int, tuple[int, int]] = {}  # the range of chunks in it, counted from the index's making

    def search(self, row: Row, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        indexes = self._up_to_date(row, layer)
        found = [index.search(_numpy(part), top_k) for index, part in zip(indexes, queries, strict=True)]
        scores, order = (torch.stack([torch.from_numpy(one[i]) for one in found]) for i in (0, 1))
        return scores.to(queries), order.to(queries.device)

    def _up_to_date(self, row: Row, layer: int) -> list[Any]:
        """The indexes of a layer, with exactly the row's chunks in order."""
        first, end = row.num_dropped, row.num_dropped + row.num_chunks
        had_first, had_end = self.held.get(layer, (0, 0))
        if first >= had_end:
            self.layers[layer] = [self.faiss.IndexFlatIP(row.layout.head_dim) for _ in range(row.layout.num_kv_heads)]
            had_first = had_end = first
        added = search_keys_of(row, layer, had_end - first, end - had_end)  # [kv_heads, new, head_dim]
        for index, keys in zip(self.layers[layer], added, strict=True):
            if first > had_first:
                index.remove_ids(self.faiss.IDSelectorRange(0, first - had_first))
            if end > had_end:
                index.add(_numpy(keys))
        self.held[layer] = (first, end)
        return self.layers[layer]


INDEXES: dict[str, Callable[[], ChunkIndex]] = {
    "auto": AutoIndex,
    "exact": ExactIndex,
    "approximate": ApproximateIndex,
    "faiss": FaissIndex,
    "qdrant": QdrantIndex,
}


def create_index(name: str) -> ChunkIndex:
    """An index by its name in `INDEXES`, for one row."""
    return INDEXES[name]()


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().float().cpu().contiguous().numpy()


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise LtmError('index="faiss" needs faiss: pip install "ltm[faiss]", or use index="exact"') from error
    return faiss
