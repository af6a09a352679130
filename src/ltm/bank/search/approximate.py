"""The index that looks into a few clusters of chunks instead of all, and grows and shrinks with its row."""

from __future__ import annotations

import torch
from torch import Tensor

from ltm.bank.search.blockwise import as_floats, search_all
from ltm.bank.search.clusters import Clusters, num_clusters
from ltm.bank.search.exact import FEW_QUERIES, exact_search
from ltm.bank.search.keys import SearchKeys
from ltm.bank.search.select import row_top_k

FROM_CHUNKS = 131_072
"""'auto' searches exactly up to so many chunks: 256k tokens in chunks of 2 (docs/bank-search.md)."""
TAIL = 8192
"""New chunks that are searched exactly before they join their clusters."""
PATIENCE = 4
"""'auto' makes clusters after a quarter as many searches as there will be clusters: exact ones have cost as much by
then as making them does (docs/bank-search.md), so a few questions to a large bank never wait for clusters."""
SEEN_QUERIES = 2048
"""Queries kept for telling what will be asked, the latest; of one search at most an eighth of it."""

Space = tuple[int, int | None]
"""A layer and a kv head; None: all heads together."""


class ApproximateIndex:
    """`Clusters` for each layer and kv head, and for all heads together, made at the first search that needs them.

    What is new is searched exactly until it is worth sorting in; after growing to twice the size everything is
    clustered anew. With `patience` a space is searched exactly until clusters pay. Searches with many queries
    (reading) stay exact: a matrix product over all keys serves them all at once, and in clusters they would share
    little. So do rows below from_chunks.
    """

    def __init__(self, from_chunks: int = 64, patience: int | None = None):
        self.from_chunks, self.patience = from_chunks, patience
        self.searches: dict[Space, int] = {}  # without clusters
        self.spaces: dict[Space, Clusters] = {}
        self.ends: dict[Space, int] = {}  # chunks below are in clusters, counted from the index's making
        self.seen: dict[Space, Tensor] = {}

    def search(self, keys: SearchKeys, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        for head, asked in enumerate(queries):
            self._remember((layer, head), asked)
        if queries.shape[1] > FEW_QUERIES or not self._is_large(keys) or self._is_early(keys, (layer, 0)):
            return search_all(keys, layer, queries, top_k)
        heads = [self._search(keys, (layer, head), asked, top_k) for head, asked in enumerate(queries)]
        return torch.stack([scores for scores, _ in heads]), torch.stack([indices for _, indices in heads])

    def search_joint(self, keys: SearchKeys, layer: int, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        together = queries.transpose(0, 1).flatten(1)  # [queries, kv_heads * head_dim]
        self._remember((layer, None), together)
        if queries.shape[1] > FEW_QUERIES or not self._is_large(keys) or self._is_early(keys, (layer, None)):
            return search_all(keys, layer, queries, top_k, jointly=True)
        return self._search(keys, (layer, None), together, top_k)

    def kept(self, indices: Tensor, num_evicted: int) -> ApproximateIndex:
        """The index of the same row after all but the chunks at these indices (int64, ascending) were removed."""
        other = ApproximateIndex(self.from_chunks, self.patience)
        other.seen, other.searches = self.seen, self.searches
        for space, clusters in self.spaces.items():
            held = indices[indices + num_evicted < self.ends[space]]
            clusters.keep(held + num_evicted)
            other.spaces[space], other.ends[space] = clusters, len(held)
        return other

    def _search(self, keys: SearchKeys, space: Space, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Scores and indices [queries, top_k]."""
        first, end = keys.num_evicted, keys.num_evicted + keys.num_chunks
        clusters = self._up_to_date(keys, space)
        scores, ids = clusters.search(queries, top_k, first)
        tail = _of_space(keys, space, self.ends[space] - first, end - self.ends[space])
        if len(tail):
            more, new = exact_search(queries[None], tail[None], min(top_k, len(tail)))
            scores, ids = torch.cat((scores, more[0]), dim=1), torch.cat((ids, new[0] + self.ends[space]), dim=1)
            scores, chosen = row_top_k(scores, top_k)
            ids = ids.gather(1, chosen)
        if bool(scores.isneginf().any()):  # the clusters hold too little that is alive
            scores, indices = exact_search(queries[None], _of_space(keys, space, 0, keys.num_chunks)[None], top_k)
            return scores[0], indices[0]
        return scores, ids - first

    def _is_early(self, keys: SearchKeys, space: Space) -> bool:
        """Whether a space (of heads, the first) has had too few searches for clusters to pay; counts this one."""
        if self.patience is None or space in self.spaces:
            return False
        self.searches[space] = self.searches.get(space, 0) + 1
        return self.searches[space] * self.patience <= num_clusters(keys.num_chunks)

    def _up_to_date(self, keys: SearchKeys, space: Space) -> Clusters:
        """The clusters of a space; all but the newest chunks are in them."""
        first, end = keys.num_evicted, keys.num_evicted + keys.num_chunks
        clusters, held = self.spaces.get(space), self.ends.get(space, 0)
        if clusters is None or held <= first or keys.num_chunks > 2 * clusters.trained_on:
            floats = _of_space(keys, space, 0, keys.num_chunks)
            clusters = self.spaces[space] = Clusters(floats, torch.arange(first, end), self.seen[space])
            self.ends[space] = end
        elif end - held > TAIL:
            clusters.add(_of_space(keys, space, held - first, end - held), torch.arange(held, end), first)
            self.ends[space] = end
        return clusters

    def _is_large(self, keys: SearchKeys) -> bool:
        return keys.num_chunks >= self.from_chunks and keys.device.type == "cpu"

    def _remember(self, space: Space, queries: Tensor) -> None:
        """Keep some of the queries."""
        some = queries[:: max(len(queries) * 8 // SEEN_QUERIES, 1)]
        before = self.seen.get(space)
        self.seen[space] = (some.clone() if before is None else torch.cat((before, some)))[-SEEN_QUERIES:]


class AutoIndex(ApproximateIndex):
    """Exact up to `FROM_CHUNKS` chunks in a row; above, approximate once it pays."""

    def __init__(self) -> None:
        super().__init__(FROM_CHUNKS, PATIENCE)


def _of_space(keys: SearchKeys, space: Space, first: int, count: int) -> Tensor:
    """Search keys of one space [count, head_dim or kv_heads * head_dim], in order."""
    layer, head = space
    floats = as_floats(keys, layer, first, count)
    return floats.transpose(0, 1).flatten(1) if head is None else floats[head]
