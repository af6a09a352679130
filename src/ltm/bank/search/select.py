"""The best of many scores: bounds first, so that few scores are ever compared with each other.

Groups of 16 scores give their maximum (a pass at the speed of memory), and groups of 16 maxima theirs. The k-th largest
of such maxima is a bound: k scores reach it, each in a group of its own, so the best k are among those that do, which
are little more than k. Only these are looked at, of all queries in one sort.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

GROUP = 16
"""Scores in a group."""
DIRECT = 2048
"""Scores in a row up to which selecting among all of them at once is as fast."""
SORTED = 256
"""Scores in a row up to which sorting all is faster than parting off the best first."""
SPARSE = 256
"""From so many scores for each one wanted on, members of the best groups are fetched instead of comparing all."""


def column_top_k(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The best of each column of scores [n, queries], as [queries, top_k] with int64 indices, best first; on a CPU, of
    equal scores the lower indices win."""
    n, queries = scores.shape
    if scores.device.type != "cpu" or scores.dtype == torch.float64:
        return grouped_top_k(scores.T.contiguous(), top_k)
    if n <= 4 * top_k or n.bit_length() + queries.bit_length() + 32 > 63:
        return row_top_k(scores.T.contiguous(), top_k)
    numbers = _comparable(scores.contiguous())
    levels = _maxima(numbers, top_k)
    bounds = _bounds(levels[-1], top_k)
    if numbers.dtype == np.int16 and bool((bounds < 0).any()):
        numbers = _in_order(numbers)
        levels = _maxima(numbers, top_k)
        bounds = _bounds(levels[-1], top_k)
    by_groups = n > SPARSE * top_k and len(levels) > 1
    reached = levels[int(by_groups)] >= bounds
    if np.count_nonzero(reached) > reached.size // 2:  # most are equal
        return row_top_k(scores.T.contiguous(), top_k)
    found = _members_reaching(reached, numbers, bounds) if by_groups else np.flatnonzero(reached)
    indices = _best_of_each(found, numbers, top_k)
    return scores.gather(0, indices.T).T.contiguous(), indices


def _comparable(scores: Tensor) -> np.ndarray:
    """Scores as numbers that a CPU compares fast: of 16 bits as whole ones, whose order is the same from +0 up."""
    return scores.view(torch.int16).numpy() if scores.dtype.itemsize == 2 else scores.numpy()


def _in_order(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers with the bits of floats, made to have the floats' order also below 0."""
    limits = np.iinfo(numbers.dtype)
    return numbers ^ ((numbers >> (limits.bits - 1)) & limits.max)


def _maxima(numbers: np.ndarray, top_k: int) -> list[np.ndarray]:
    """Numbers [n, queries], maxima of 16 neighbours each [n // 16, queries], and so on while 2 * top_k are left."""
    levels = [numbers]
    while (groups := len(levels[-1]) // GROUP) >= 2 * top_k:
        grouped = torch.from_numpy(levels[-1][: groups * GROUP]).view(groups, GROUP, -1)
        levels.append(grouped.amax(dim=1).numpy())
    return levels


def _bounds(maxima: np.ndarray, top_k: int) -> np.ndarray:
    """The top_k-th largest of each column."""
    last = len(maxima) - top_k
    rows = torch.from_numpy(maxima).T.contiguous().numpy()
    return np.partition(rows, last, axis=1)[:, last].copy()


def _members_reaching(reached: np.ndarray, numbers: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Places in the flattened numbers of those that are at their column's bound or above, in groups that reached it
    (bool [n // 16, queries]) or among the last, which are in no group."""
    groups, columns = np.divmod(np.flatnonzero(reached), queries := numbers.shape[1])
    members = (groups * (GROUP * queries) + columns)[:, None] + np.arange(0, GROUP * queries, queries)
    found = members[numbers.reshape(-1).take(members) >= bounds[columns][:, None]]
    rest = len(reached) * GROUP
    last = np.flatnonzero(numbers[rest:] >= bounds) + rest * queries
    return np.concatenate((found, last)) if len(last) else found


def _best_of_each(found: np.ndarray, numbers: np.ndarray, top_k: int) -> Tensor:
    """Indices [queries, top_k], best first, among the numbers at these places [some, at least top_k a column]."""
    n, queries = numbers.shape
    rows, columns = np.divmod(found, queries)
    values = numbers.reshape(-1).take(found)
    values = _in_order(values.view(np.int32)) if values.dtype == np.float32 else values
    width, place = np.iinfo(values.dtype), n.bit_length()
    worse = width.max - values.astype(np.int64)  # 0 the best
    packed = (columns << (width.bits + place)) | (worse << place) | rows
    packed.sort()
    starts = np.searchsorted(packed, np.arange(queries) << (width.bits + place))
    return torch.from_numpy(packed[starts[:, None] + np.arange(top_k)] & ((1 << place) - 1))


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


def in_order(indices: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [rows, n], from 0 up, made to ascend, with their scores in the same order."""
    if indices.device.type != "cpu":
        ascending, places = indices.sort(dim=-1)
        return ascending, scores.gather(-1, places)
    packed = (indices.numpy() << 32) + np.arange(indices.shape[1])  # numpy sorts five times as fast
    packed.sort(axis=1)
    return torch.from_numpy(packed >> 32), scores.gather(-1, torch.from_numpy(packed & 0xFFFFFFFF))


@lru_cache(maxsize=64)
def _last_first(n: int) -> np.ndarray:
    """n - 1, ..., 1, 0: kept, since making it takes as long as sorting a row."""
    indices = np.arange(n - 1, -1, -1)
    indices.flags.writeable = False
    return indices


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
