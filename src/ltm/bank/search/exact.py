"""Exact search for the best chunks: inner products block by block, of which only the best are kept.
Written out naively: tests/reference/search.py.

A block of scores stays in the processor's cache and is never written out. Selecting would cost more than the product:
so groups of 16 scores first give their maximum (a pass at the speed of memory), then the best groups are picked in the
same way, and only their members are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

GROUP = 16
"""Scores in a group: a first pass keeps each group's best, so the costly selection sees 1/16 of the scores."""
DIRECT = 2048
"""Scores in a row up to which selecting among all of them at once is as fast."""
DIRECT_COLUMN = 512
"""The same where scores of a query are a column."""
FEW_QUERIES = 24
"""Up to so many queries a head (decoding), scores are rows and all heads are searched together."""
KEY_BLOCK = {"cpu": 2**16, "cuda": 2**20}
"""Keys in a block. On a CPU the scores of a block (64k x 64: 8 MB in bf16) should stay in the last-level cache."""
SORTED = 256
"""Scores in a row up to which sorting all is faster than parting off the best first."""
QUERY_BLOCK = 64
"""Queries in a block, of one head, with full blocks of keys; with fewer keys more, up to MOST_QUERIES."""
MOST_QUERIES = 512
"""Queries in a block at most, however few the keys."""
CACHED_KEYS = 2**15
"""Keys whose product with a few queries has a faster way: those of a head stay in the cache."""
_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
"""oneDNN's product in float32, twice as fast as torch.mm's on processors that MKL knows less well."""


def exact_search(queries: Tensor, search_keys: Tensor | Sequence[Tensor], top_k: int) -> tuple[Tensor, Tensor]:
    """The best keys of each query by inner product.

    queries: [kv_heads, queries, head_dim]; search_keys: one or more parts [kv_heads, chunks of the part, head_dim], of
    the queries' dtype, which count as one after another; top_k: 1 to all chunks. Returns scores and int64 indices
    [kv_heads, queries, top_k], best first. Exact up to the rounding of the scores in that dtype: in bf16, keys whose
    scores differ by less than 0.4% may change places.

    >>> exact_search(queries, keys, 16)[1].shape  # doctest: +SKIP
    torch.Size([3, 3072, 16])
    """
    parts = [search_keys] if isinstance(search_keys, Tensor) else search_keys
    kv_heads, count, _ = queries.shape
    if count <= FEW_QUERIES:
        blocks = [(low, _row_scores(queries, pieces)) for low, pieces in _key_blocks(parts)]
        found = [_shifted(grouped_top_k(rows, min(top_k, rows.shape[1])), low) for low, rows in blocks]
        best, indices = _merged(found, top_k)
        return best.view(kv_heads, count, top_k), indices.view(kv_heads, count, top_k)
    heads = [
        _search_columns(queries[head : head + 1], [part[head : head + 1] for part in parts], top_k)
        for head in range(kv_heads)
    ]
    return torch.stack([scores for scores, _ in heads]), torch.stack([indices for _, indices in heads])


def joint_search(queries: Tensor, search_keys: Sequence[Tensor], top_k: int) -> tuple[Tensor, Tensor]:
    """The best keys of each query by the sum of all heads' inner products.

    queries: [kv_heads, queries, head_dim]; search_keys: one or more parts [kv_heads, chunks of the part, head_dim],
    which count as one after another: of keys that are the same, which is found must not depend on where they lie.
    Returns scores and int64 indices [queries, top_k], best first; rounding as in `exact_search`.
    """
    if queries.shape[1] > FEW_QUERIES:
        return _search_columns(queries, search_keys, top_k)
    found = []
    for low, pieces in _key_blocks(search_keys):
        rows = torch.cat([_summed_rows(queries, piece) for piece in pieces], dim=1)
        found.append(_shifted(grouped_top_k(rows, min(top_k, rows.shape[1])), low))
    return _merged(found, top_k)


def _search_columns(queries: Tensor, parts: Sequence[Tensor], top_k: int) -> tuple[Tensor, Tensor]:
    """As `joint_search`: scores of a query are a column of a block, so that maxima are taken along whole rows."""
    scores, indices = queries.new_empty(queries.shape[1], top_k), []
    blocks = list(_key_blocks(parts))
    keys = max(sum(piece.shape[1] for piece in pieces) for _, pieces in blocks)
    size = query_block(keys, queries.device)
    room = queries.new_empty(keys * min(size, queries.shape[1]))
    for start in range(0, queries.shape[1], size):
        some, found = queries[:, start : start + size], []
        for low, pieces in blocks:
            columns = _column_scores(some, pieces, room[: keys * some.shape[1]].view(keys, -1))
            found.append(_shifted(column_top_k(columns, min(top_k, columns.shape[0])), low))
        scores[start : start + size], chosen = _merged(found, top_k)
        indices.append(chosen)
    return scores, torch.cat(indices)


def query_block(keys: int, device: torch.device) -> int:
    """Queries to search together in blocks of so many keys: as many scores as in a full block."""
    full = QUERY_BLOCK * KEY_BLOCK.get(device.type, KEY_BLOCK["cuda"])
    return min(max(full // keys, QUERY_BLOCK), MOST_QUERIES)


def _key_blocks(parts: Sequence[Tensor]) -> Iterator[tuple[int, list[Tensor]]]:
    """Blocks of consecutive keys: the index of the first, and the pieces of the parts that make it up."""
    size, first, block, length = KEY_BLOCK.get(parts[0].device.type, KEY_BLOCK["cuda"]), 0, list[Tensor](), 0
    for part in parts:
        done = 0
        while done < part.shape[1]:
            piece = part[:, done : done + size - length]
            block.append(piece)
            done, length = done + piece.shape[1], length + piece.shape[1]
            if length == size:
                yield first, block
                first, block, length = first + length, [], 0
    if block:
        yield first, block


def _row_scores(queries: Tensor, pieces: Sequence[Tensor]) -> Tensor:
    """[kv_heads * queries, keys] for each head its own products; head by head, since slices of keys are no batch that
    a product takes without a copy."""
    cached = sum(piece.shape[1] for piece in pieces) <= CACHED_KEYS
    if cached and len(pieces) == 1 and queries.dtype.itemsize == 2 and pieces[0].is_contiguous():
        return torch.bmm(queries, pieces[0].transpose(1, 2)).flatten(0, 1)
    product: Callable[[Tensor, Tensor], Tensor] = key_product if cached and _has_onednn(queries) else row_product
    by_head = zip(queries.unbind(), *(piece.unbind() for piece in pieces), strict=True)
    rows = [[product(asked, piece) for piece in of_head] for asked, *of_head in by_head]
    return torch.cat([part[0] if len(part) == 1 else torch.cat(part, dim=1) for part in rows])


def row_product(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner products [queries, keys], the faster way round for a few queries."""
    return torch.mm(queries, keys.T) if queries.dtype.itemsize == 2 else torch.mm(keys, queries.T).T


def _has_onednn(queries: Tensor) -> bool:
    return _ONEDNN_LINEAR is not None and queries.dtype == torch.float32 and queries.device.type == "cpu"


def _summed_rows(queries: Tensor, keys: Tensor) -> Tensor:
    """[queries, keys], products summed over heads."""
    rows = torch.mm(queries[0], keys[0].T)
    for query, key in zip(queries[1:], keys[1:], strict=True):
        rows.addmm_(query, key.T)
    return rows


def _column_scores(queries: Tensor, pieces: Sequence[Tensor], room: Tensor) -> Tensor:
    """[keys, queries] of the pieces: products summed over heads, of queries [kv_heads, queries, head_dim]; in `room`
    if the product can be made there."""
    if queries.dtype == torch.float32 and queries.device.type == "cpu":
        products = [[key_product(key, query) for key, query in zip(p, queries, strict=True)] for p in pieces]
        summed = [sum(heads[1:], start=heads[0]) for heads in products]
        return summed[0] if len(summed) == 1 else torch.cat(summed)
    low = 0
    for piece in pieces:
        columns = room[low : low + piece.shape[1]]
        torch.mm(piece[0], queries[0].T, out=columns)
        for query, key in zip(queries[1:], piece[1:], strict=True):
            columns.addmm_(key, query.T)
        low += piece.shape[1]
    return room[:low]


def key_product(keys: Tensor, queries: Tensor) -> Tensor:
    """Inner products [keys, queries], the fastest way there is for many of one of them."""
    if _ONEDNN_LINEAR is not None and _has_onednn(queries):
        return _ONEDNN_LINEAR(keys, queries if queries.is_contiguous() else queries.contiguous(), None, "none", [], "")
    return torch.mm(keys, queries.T)


def _shifted(found: tuple[Tensor, Tensor], by: int) -> tuple[Tensor, Tensor]:
    return found[0], found[1] + by if by else found[1]


def _merged(found: Sequence[tuple[Tensor, Tensor]], top_k: int) -> tuple[Tensor, Tensor]:
    """The best of what was found in each block, [queries, up to top_k] each."""
    if len(found) == 1:
        return found[0]
    scores, indices = (torch.cat(tensors, dim=1) for tensors in zip(*found, strict=True))
    best, chosen = row_top_k(scores, top_k)
    return best, indices.gather(1, chosen)


def column_top_k(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The best of each column of scores [n, queries], as [queries, top_k] with int64 indices, best first.

    Exact for the reason that `grouped_top_k` is; here a group is 16 neighbours, so that a pass takes maxima of rows.
    """
    n, queries = scores.shape
    groups = n // GROUP
    if n <= DIRECT_COLUMN or groups <= top_k:
        return _plain_top_k(scores, top_k)
    grouped = scores[: groups * GROUP].view(groups, GROUP, queries)
    chosen = _best_groups(grouped, top_k)  # [queries, top_k]
    candidates = grouped.gather(0, chosen.T[:, None].expand(-1, GROUP, -1)).flatten(0, 1)  # [top_k * GROUP, queries]
    indices = (chosen[..., None] * GROUP + torch.arange(GROUP, device=scores.device)).flatten(1)
    if n % GROUP:  # the rest, which is in no group
        rest = torch.arange(groups * GROUP, n, device=scores.device)
        candidates = torch.cat((candidates, scores[groups * GROUP :]))
        indices = torch.cat((indices, rest.expand(queries, -1)), dim=1)
    best, winners = _plain_top_k(candidates, top_k)
    return best, indices.gather(1, winners)


def _plain_top_k(columns: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    return row_top_k(columns.T.contiguous(), top_k)


def row_top_k(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """torch.topk over the last axis of scores [rows, n]; of equal scores the lower indices win.

    On a CPU numpy's vectorised sort of 64-bit numbers, score above index, is 3 to 5 times as fast as torch.topk.
    """
    n = scores.shape[1]
    if scores.device.type != "cpu" or scores.dtype == torch.float64:
        return scores.topk(top_k, dim=-1)
    bits = scores.float().contiguous().numpy().view(np.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as whole numbers: the same order, for negative scores too
    packed = ordered.astype(np.int64) << 32
    packed += _last_first(n)
    if n > SORTED:
        packed.partition(n - top_k, axis=1)
        packed = packed[:, -top_k:]
    packed.sort(axis=1)
    indices = torch.from_numpy(n - 1 - (packed[:, : -top_k - 1 : -1] & 0xFFFFFFFF))
    return scores.gather(1, indices), indices


@lru_cache(maxsize=64)
def _last_first(n: int) -> np.ndarray:
    """n - 1, ..., 1, 0: kept, since making it takes as long as sorting a row."""
    indices = np.arange(n - 1, -1, -1)
    indices.flags.writeable = False
    return indices


def _best_groups(grouped: Tensor, top_k: int) -> Tensor:
    """The groups with the largest maxima [queries, top_k], from scores [groups, GROUP, queries].

    A CPU compares bf16 four times slower than int16, whose order is the same from +0 up. Negative numbers come out
    wrong, which shows: then a query has a maximum below 0 among its best.
    """
    if grouped.device.type == "cpu" and grouped.dtype.itemsize == 2:
        maxima = grouped.view(torch.int16).amax(dim=1).view(grouped.dtype).float()
        best, chosen = column_top_k(maxima, top_k)
        if bool((best >= 0).all()):
            return chosen
    return column_top_k(grouped.amax(dim=1), top_k)[1]


def grouped_top_k(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """torch.topk over the last axis of scores [rows, n], several times faster on a CPU where n is large.

    Exact: the best k elements lie in the k groups with the largest maxima, since an element outside of them has k
    others, one in each, that are as large. The groups' maxima are searched in the same way.
    """
    rows, n = scores.shape
    num_groups = n // GROUP
    if n <= DIRECT or num_groups <= top_k:
        return row_top_k(scores, top_k)
    grouped = scores[:, : GROUP * num_groups].view(rows, GROUP, num_groups)  # group g: elements g, g + num_groups, ...
    groups = grouped_top_k(grouped.amax(dim=1), top_k)[1]  # [rows, top_k]
    candidates = grouped.gather(2, groups[:, None].expand(-1, GROUP, -1)).flatten(1)  # [rows, GROUP * top_k]
    members = torch.arange(0, GROUP * num_groups, num_groups, device=scores.device)[:, None]
    indices = (groups[:, None] + members).flatten(1)  # of the candidates
    if n % GROUP:  # the rest, which is in no group
        rest = torch.arange(GROUP * num_groups, n, device=scores.device)
        candidates = torch.cat((candidates, scores[:, GROUP * num_groups :]), dim=1)
        indices = torch.cat((indices, rest.expand(rows, -1)), dim=1)
    best, winners = row_top_k(candidates, top_k)
    return best, indices.gather(1, winners)
