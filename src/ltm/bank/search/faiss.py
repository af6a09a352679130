"""Search keys in faiss, where that is installed: a second opinion on exact search."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltm.bank.search.blockwise import as_floats, search_all
from ltm.bank.search.keys import SearchKeys
from ltm.errors import LtmError


class FaissIndex:
    """One faiss.IndexFlatIP for each layer and kv head, brought up to date before a search: new chunks are added,
    evicted ones removed (a row that deletes chunks elsewhere takes a new index). On the host, in float32; over all
    heads together it searches as the exact index does.

    Raises LtmError where faiss is not installed.
    """

    def __init__(self) -> None:
        self.faiss = _import_faiss()
        self.layers: dict[int, list[Any]] = {}
        self.held: dict[int, tuple[int, int]] = {}  # the range of chunks in it, counted from the index's making

    def search(self, keys: SearchKeys, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        indexes = self._up_to_date(keys, layer)
        found = [index.search(_numpy(part), top_k) for index, part in zip(indexes, queries, strict=True)]
        scores, indices = (torch.stack([torch.from_numpy(one[i]) for one in found]) for i in (0, 1))
        return scores.to(queries), indices.to(queries.device)

    def search_joint(self, keys: SearchKeys, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        return search_all(keys, layer, queries, top_k, jointly=True)

    def kept(self, indices: Tensor, num_evicted: int) -> FaissIndex:
        return FaissIndex()

    def _up_to_date(self, keys: SearchKeys, layer: int) -> list[Any]:
        """The indexes of a layer, with exactly the row's chunks in order."""
        first, end = keys.num_evicted, keys.num_evicted + keys.num_chunks
        had_first, had_end = self.held.get(layer, (0, 0))
        if first >= had_end:
            self.layers[layer] = [self.faiss.IndexFlatIP(keys.head_dim) for _ in range(keys.num_kv_heads)]
            had_first = had_end = first
        added = as_floats(keys, layer, had_end - first, end - had_end)  # [kv_heads, new, head_dim]
        for index, new in zip(self.layers[layer], added, strict=True):
            if first > had_first:
                index.remove_ids(self.faiss.IDSelectorRange(0, first - had_first))
            if end > had_end:
                index.add(_numpy(new))
        self.held[layer] = (first, end)
        return self.layers[layer]


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().float().cpu().contiguous().numpy()


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise LtmError('index="faiss" needs faiss: pip install "ltm[faiss]", or use index="exact"') from error
    return faiss
