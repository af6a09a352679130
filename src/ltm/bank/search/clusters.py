"""Approximate search: chunk keys in clusters, of which a query looks into the most promising.

An inverted file (Sivic and Zisserman, 2003; Jégou et al., 2011) with one change that attention needs. Queries of a
language model lie elsewhere than its keys (Liu et al., 2024, RetrievalAttention, arXiv:2409.10516), so clusters that
are tight for keys are not tight for what queries ask. With C the queries' second moment, C = A A^T, the error that a
centroid c makes in the score of a key k is q (k - c), on average over queries |A^T (k - c)|^2: so keys are clustered
after multiplication with A^T. That halves what must be looked at for the same recall (docs/bank-search.md).

A query ranks clusters by q mean + deviation, where deviation is the root of that average over the cluster's keys.

Of a key only what it is beyond its cluster's anchor is held, so that products in bf16 (as fast as memory is read) lose
little: all keys have much in common, and among whole scores a bf16 tells a third of the best apart no more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltm.bank.search.exact import key_product, row_product
from ltm.bank.search.select import column_top_k, grouped_top_k, row_top_k

PROBES = 80
"""Clusters looked into for each query: recall of 0.95 and more of the best 16 on real keys (docs/bank-search.md)."""
ROUNDS = 4
"""Of k-means, passes over the sample; the recall at PROBES was measured with this, SAMPLE and PRIOR as they are."""
SAMPLE = 32
"""Keys for each cluster that k-means sees."""
OFFSET_SAMPLE = 65536
"""Keys whose mean stands for that of all: it is off by 1/256 of their deviation, and only shifts all of them alike."""
PRIOR = 64
"""Made-up queries, equally long in every direction, added to the ones seen: a few real ones must not decide all."""
BLOCK = 512
"""Keys that are held against all centroids at a time: their inner products should stay in the cache."""
PIECE = 65536
"""Keys that are mapped, or measured, at a time."""


class Clusters:
    """The keys of one search space in clusters, with room to add.

    keys: [chunks, head_dim]; queries: [some, head_dim], what is asked of them, as a sample. ids: int64 [chunks],
    ascending, what `search` returns for each. Keys are held once more, cluster by cluster, in their dtype: as what they
    are beyond the anchor of their cluster, its mean when clusters were made.

    >>> clusters = Clusters(keys, torch.arange(len(keys)), queries)  # doctest: +SKIP
    >>> scores, ids = clusters.search(queries[:3], 16)  # doctest: +SKIP
    """

    def __init__(self, keys: Tensor, ids: Tensor, queries: Tensor):
        self.probes = PROBES
        self.trained_on = len(keys)
        self.root = _root_of_moment(queries.float())  # A, [head_dim, head_dim]
        self.offset = keys[:: max(len(keys) // OFFSET_SAMPLE, 1)].float().mean(dim=0)
        mapped = self._mapped(keys[_spread_out(len(keys), SAMPLE * num_clusters(len(keys)))])
        self.centroids = _k_means(mapped, num_clusters(len(keys)))  # [clusters, head_dim], of mapped keys
        owners = self._owners(keys)
        counts = torch.bincount(owners, minlength=len(self.centroids))
        self.anchors = _means(keys, owners, counts)  # float32 [clusters, head_dim]
        self._arrange(self._beyond(keys, owners), ids, owners)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in vars(self).values() if isinstance(t, Tensor))

    def add(self, keys: Tensor, ids: Tensor, first: int) -> None:
        """More keys, whose ids are above those held; what has an id below `first` is deleted."""
        alive = self.ids >= first
        new = self._owners(keys)
        beyond = torch.cat((self.beyond[alive], self._beyond(keys, new)))
        self._arrange(beyond, torch.cat((self.ids[alive], ids)), torch.cat((self.owners[alive], new)))

    def keep(self, ids: Tensor) -> None:
        """Delete all keys but those with these ids (int64, ascending), which become 0, 1, ..."""
        found = torch.searchsorted(ids, self.ids).clamp_(max=max(len(ids) - 1, 0))
        alive = ids[found] == self.ids if len(ids) else torch.zeros_like(found, dtype=torch.bool)
        self._arrange(self.beyond[alive], found[alive], self.owners[alive])

    def search(self, queries: Tensor, top_k: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """Scores and ids [queries, top_k] of the best keys in the clusters looked into, best first; -inf where
        they hold fewer than top_k with an id of `first` or more. Queries [queries, head_dim] look into each
        other's clusters too: meant for a few of them."""
        precise = queries.float()
        ranking = torch.addmm(self.deviations, precise, self.means.T)  # [queries, clusters]
        chosen = row_top_k(ranking, min(self.probes, ranking.shape[1]))[1].flatten().unique()
        positions = self._positions(chosen)
        scores = row_product(queries.to(self.beyond.dtype), self.beyond.index_select(0, positions)).float().contiguous()
        scores += torch.repeat_interleave(precise @ self.anchors[chosen].T, self.counts[chosen], dim=1)
        if first:
            scores.masked_fill_(self.ids[positions] < first, float("-inf"))
        missing = top_k - scores.shape[1]
        if missing > 0:
            scores = torch.cat((scores, scores.new_full((len(queries), missing), float("-inf"))), dim=1)
            positions = torch.cat((positions, positions.new_zeros(missing)))
        best, order = grouped_top_k(scores, top_k)
        return best.to(queries.dtype), self.ids[positions[order]]

    def _positions(self, clusters: Tensor) -> Tensor:
        """Where the keys of these clusters lie, which lie one behind the other."""
        counts = self.counts[clusters]
        ends = counts.cumsum(0)
        return torch.repeat_interleave(self.starts[clusters] - ends + counts, counts) + torch.arange(int(ends[-1]))

    def _arrange(self, beyond: Tensor, ids: Tensor, owners: Tensor) -> None:
        """Lay keys out cluster by cluster and sum the clusters up."""
        order = owners.argsort(stable=True)
        self.beyond, self.ids, self.owners = beyond[order], ids[order], owners[order]
        self.counts = torch.bincount(self.owners, minlength=len(self.anchors))
        self.starts = self.counts.cumsum(0) - self.counts
        away = _means(self.beyond, self.owners, self.counts)  # of the means from the anchors
        squares = torch.zeros(len(self.anchors))
        for part, own in zip(self.beyond.split(PIECE), self.owners.split(PIECE), strict=True):
            squares.index_add_(0, own, ((part.float() - away[own]) @ self.root).square().sum(dim=1))
        self.means = self.anchors + away
        self.deviations = (squares / self.counts.clamp(min=1)).sqrt().masked_fill_(self.counts == 0, float("-inf"))

    def _beyond(self, keys: Tensor, owners: Tensor) -> Tensor:
        """What keys are beyond their anchors, in their dtype."""
        parts = zip(keys.split(PIECE), owners.split(PIECE), strict=True)
        return torch.cat([(part.float() - self.anchors[own]).to(keys.dtype) for part, own in parts])

    def _owners(self, keys: Tensor) -> Tensor:
        """The cluster of each key."""
        return torch.cat([_nearest(self._mapped(part), self.centroids) for part in keys.split(PIECE)])

    def _mapped(self, keys: Tensor) -> Tensor:
        return (keys.float() - self.offset) @ self.root


def num_clusters(chunks: int) -> int:
    """A power of two near 4 sqrt(chunks): then finding clusters costs about as much as looking into them."""
    return 2 ** max(round(math.log2(4 * math.sqrt(chunks))), 1) if chunks >= 64 else 1


def _means(keys: Tensor, owners: Tensor, counts: Tensor) -> Tensor:
    """Of the keys of each cluster (counts [clusters] in number) float32 [clusters, head_dim]; zero of none."""
    sums = torch.zeros(len(counts), keys.shape[1])
    for part, own in zip(keys.split(PIECE), owners.split(PIECE), strict=True):
        sums.index_add_(0, own, part.float())
    return sums / counts.clamp(min=1)[:, None]


def _root_of_moment(queries: Tensor) -> Tensor:
    """A with A A^T the second moment of queries [some, head_dim], drawn towards equal in all directions."""
    size = queries.shape[1]
    mean_square = queries.square().sum() / max(queries.numel(), 1)
    moment = (queries.T @ queries + PRIOR * mean_square * torch.eye(size)) / (len(queries) + PRIOR)
    values, vectors = torch.linalg.eigh(moment)
    return vectors * values.clamp(min=1e-12).sqrt()


def _spread_out(n: int, wanted: int) -> Tensor:
    """About `wanted` of n indices, at random, the same each time."""
    if wanted >= n:
        return torch.arange(n)
    return torch.randint(n, (wanted,), generator=torch.Generator().manual_seed(0)).unique()


def _k_means(points: Tensor, clusters: int) -> Tensor:
    """Lloyd's iterations from points drawn at random: centroids [clusters, dim]; one without points takes a point."""
    random = torch.Generator().manual_seed(0)
    centroids = points[torch.randperm(len(points), generator=random)[:clusters]].clone()
    for _ in range(ROUNDS):
        owners = _nearest(points, centroids)
        counts = torch.bincount(owners, minlength=len(centroids))
        centroids = _means(points, owners, counts)
        empty = (counts == 0).nonzero().squeeze(1)
        centroids[empty] = points[torch.randint(len(points), (len(empty),), generator=random)]
    return centroids


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid of each point, int64 [points]."""
    half_squares = centroids.square().sum(dim=1, keepdim=True) / 2
    found = [column_top_k(key_product(centroids, part).sub_(half_squares), 1)[1] for part in points.split(BLOCK)]
    return torch.cat(found).squeeze(1)
