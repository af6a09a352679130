"""Exact search for the best chunks: inner products block by block, of which only the best are kept.
Written out naively: tests/reference/search.py.

A block of scores stays in the processor's cache and is never written out; what of it is kept: `ltm.bank.search.select`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ltm.bank.search.select import column_top_k, grouped_top_k, row_top_k

FEW_QUERIES = 24
"""Up to so many queries a head (decoding), scores are rows and all heads are searched together."""
KEY_BLOCK = {"cpu": 2**16, "cuda": 2**19}
"""Keys in a block. On a CPU the scores of a block (64k x 128: 16 MB in bf16) should stay in the last-level cache."""
QUERY_BLOCK = 128
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
    asked = queries.transpose(0, 1).flatten(1)  # [queries, kv_heads * head_dim]: all heads in one product
    blocks = [(low, sum(piece.shape[1] for piece in pieces), pieces) for low, pieces in _key_blocks(parts)]
    most = max(length for _, length, _ in blocks)
    some = asked.split(query_block(most, queries.device))
    room = queries.new_empty(most * len(some[0]))
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in some]
    for low, length, pieces in blocks:
        keys = [piece.transpose(0, 1).flatten(1) for piece in pieces]
        for few, best in zip(some, found, strict=True):
            columns = _column_scores(few, keys, room[: length * len(few)].view(length, -1))
            best.append(_shifted(column_top_k(columns, min(top_k, length)), low))
    merged = [_merged(best, top_k) for best in found]
    return torch.cat([scores for scores, _ in merged]), torch.cat([indices for _, indices in merged])


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
    """Products [keys, queries] of pieces [keys of the piece, width] with queries [queries, width]; in `room` if they
    can be made there."""
    if _has_onednn(queries):
        products = [key_product(keys, queries) for keys in pieces]
        return products[0] if len(products) == 1 else torch.cat(products)
    low = 0
    for keys in pieces:
        torch.mm(keys, queries.T, out=room[low : low + len(keys)])
        low += len(keys)
    return room


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
