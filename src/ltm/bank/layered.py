"""What was read and what left a stream's window, as one past: several banks behind the verbs that one is asked with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ltm.bank.bank import Bank
from ltm.bank.events import EventTable
from ltm.bank.results import Hits, Neighbours


class BankPart(NamedTuple):
    """A bank, and the memory row of it that each row of a batch reads, int64 [batch]."""

    bank: Bank
    rows: Tensor


class LayeredBank:
    """Banks of the same shapes as one past of each row of a batch, the oldest part first.

    parts: those that hold nothing for these rows are left out, so that an empty `LayeredBank` is false. Verbs take the
    row of the *batch*. Tokens are counted over all parts, 0 the oldest of the first part.

    There is one rule for what is found: the best `top_k` over all parts. Slots are those of a part, so `Hits` and
    `Neighbours` have the columns of the parts side by side, top_k of each, and those are not valid that other parts'
    surpass; `by_part` tells them apart.

    >>> past = LayeredBank([BankPart(memory, rows), BankPart(spilled, torch.arange(len(rows)))])  # doctest: +SKIP
    >>> keys, values, mask = past.gather(past.search(queries, top_k=16))  # doctest: +SKIP
    """

    def __init__(self, parts: Iterable[BankPart]):
        self.parts = [part for part in parts if _holds_anything(part)]

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def version(self) -> tuple[object, ...]:
        """Another one whenever what is read here may have changed; see `Bank.version`."""
        return tuple((part.bank.version, *part.rows.tolist()) for part in self.parts)

    # chunks, of the whole batch

    def search(self, queries: Tensor, top_k: int, layer: int = 0) -> Hits:
        """As `Bank.search`: the best top_k over all parts, [batch, heads, tokens, parts * top_k]."""
        found = [part.bank.search(queries, top_k, rows=part.rows, layer=layer) for part in self.parts]
        return _side_by_side(best_over_parts(found))

    def gather(self, hits: Hits, layer: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """As `Bank.gather`, of what `search` found: keys and values [batch, heads, tokens, parts * top_k * chunk_size,
        head_dim], mask without the last axis."""
        found = [part.bank.gather(own, rows=part.rows, layer=layer) for part, own in self.by_part(hits)]
        if len(found) == 1:
            return found[0]
        keys, values, mask = (torch.cat(tensors, dim=3) for tensors in zip(*found, strict=True))
        return keys, values, mask

    def neighbours(self, queries: Tensor, top_k: int, recent: Tensor | None = None, layer: int = 0) -> Neighbours:
        """As `Bank.neighbours`, the nearest over all parts: the tokens of chunks that another part's surpass have no
        successor."""
        found = [part.bank.neighbours(queries, top_k, part.rows, layer, recent) for part in self.parts]
        if len(found) == 1:
            return found[0]
        hits = best_over_parts([neighbours.hits for neighbours in found])
        surpassed = torch.cat([_surpassed(one, best) for one, best in zip(found, hits, strict=True)], dim=2)
        next_ids, runs = (torch.cat([getattr(one, name) for one in found], dim=2) for name in ("next_ids", "runs"))
        return Neighbours(
            torch.cat([one.keys for one in found], dim=3),
            next_ids.masked_fill(surpassed, -1),
            runs.masked_fill(surpassed, 0),
            _side_by_side(hits),
        )

    def by_part(self, hits: Hits) -> Iterator[tuple[BankPart, Hits]]:
        """Each part with its own columns of what was found."""
        columns = [tensor.tensor_split(len(self.parts), dim=-1) for tensor in hits]
        yield from zip(self.parts, map(Hits, *columns), strict=True)

    # tokens and events, of one row of the batch

    def num_tokens(self, row: int) -> int:
        """Tokens that all parts hold for a row."""
        return sum(tokens for _, _, tokens in self._of_row(row))

    def entries(self, row: int, indices: Tensor | slice, layer: int = 0) -> tuple[Tensor, Tensor]:
        """As `Bank.entries`, at indices counted over all parts: int64 [n], ascending, or a range."""
        found = [bank.entries(own_row, own, layer) for bank, own_row, own in self._shares(row, indices)]
        if len(found) == 1:
            return found[0]
        keys, values = zip(*found, strict=True)
        return torch.cat(keys, dim=1), torch.cat(values, dim=1)

    def entry_keys(self, row: int, indices: Tensor | slice, layer: int = 0) -> Tensor:
        """The keys of `entries` alone."""
        found = [bank.entry_keys(own_row, own, layer) for bank, own_row, own in self._shares(row, indices)]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def event_table(self, row: int) -> EventTable:
        """Where the events of all parts lie, at indices counted over all of them."""
        tables, start = [], 0
        for bank, own_row, tokens in self._of_row(row):
            first, sizes = bank.event_table(own_row)
            tables.append((first + start, sizes))
            start += tokens
        firsts, all_sizes = zip(*tables, strict=True)
        return EventTable(torch.cat(firsts), torch.cat(all_sizes))

    def score_events(self, row: int, queries: Tensor, layer: int = 0) -> Tensor:
        """As `Bank.score_events`, of the events of all parts, as `event_table` has them."""
        scores = [bank.score_events(own_row, queries, layer) for bank, own_row, _ in self._of_row(row)]
        return scores[0] if len(scores) == 1 else torch.cat(scores, dim=2)

    def _of_row(self, row: int) -> Iterator[tuple[Bank, int, int]]:
        """Of each part that holds something for a row: its bank, the row there, and how many tokens it holds."""
        for bank, rows in self.parts:
            own_row = int(rows[row])
            if tokens := bank.num_tokens(own_row):
                yield bank, own_row, tokens

    def _shares(self, row: int, indices: Tensor | slice) -> Iterator[tuple[Bank, int, Tensor | slice]]:
        """What of the indices lies in each part, counted from its own oldest token; parts without any are left out,
        unless all are: then the first stands for nothing."""
        start, any_found = 0, False
        for bank, own_row, tokens in self._of_row(row):
            own = _share(indices, start, start + tokens)
            if own is not None:
                any_found = True
                yield bank, own_row, own
            start += tokens
        if not any_found:
            bank, own_row, _ = next(self._of_row(row))
            yield bank, own_row, slice(0, 0)


def best_over_parts(hits: Sequence[Hits]) -> list[Hits]:
    """What each part found, top_k a query, of which only the best top_k over all parts stay valid."""
    if len(hits) == 1:
        return list(hits)
    top_k = hits[0].scores.shape[-1]
    scores = torch.cat([found.scores for found in hits], dim=-1)  # [batch, heads, tokens, parts * top_k]
    best = torch.zeros_like(scores, dtype=torch.bool)
    best.scatter_(-1, scores.topk(top_k, dim=-1).indices, True)
    among_best = best.split(top_k, dim=-1)
    return [found._replace(valid=found.valid & kept) for found, kept in zip(hits, among_best, strict=True)]


def _side_by_side(hits: Sequence[Hits]) -> Hits:
    return hits[0] if len(hits) == 1 else Hits(*(torch.cat(parts, dim=-1) for parts in zip(*hits, strict=True)))


def _surpassed(found: Neighbours, best: Hits) -> Tensor:
    """Whether each token of a part's chunks is of one that is not among the best, bool [batch, tokens, columns]."""
    chunk_size = found.next_ids.shape[-1] // best.valid.shape[-1]
    return ~best.valid[:, 0].repeat_interleave(chunk_size, dim=-1)


def _holds_anything(part: BankPart) -> bool:
    return part.bank.num_rows > 0 and any(map(part.bank.num_chunks, part.rows.unique().tolist()))


def _share(indices: Tensor | slice, low: int, high: int) -> Tensor | slice | None:
    """The indices from low to high, counted from low; None for none."""
    if isinstance(indices, slice):
        start, stop = max(indices.start, low), min(indices.stop, high)
        return slice(start - low, stop - low) if stop > start else None
    own = indices[(indices >= low) & (indices < high)]
    return own - low if len(own) else None
