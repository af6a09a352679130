"""One memory over the processes of a torch.distributed group: each holds a part, and results merge exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from ltm.bank.bank import Bank
from ltm.bank.checks import row_numbers
from ltm.bank.results import Hits, Retrieved
from ltm.memory import Rows


class ShardedBank:
    """A bank whose chunks are spread over all ranks; every rank calls every method with the same arguments.

    bank: this rank's part, empty, made with the same sizes everywhere; its budget is this rank's. The chunks of each
    write are dealt out in consecutive runs, one a rank, so that parts stay equally large. What is found is what one
    bank with all chunks finds, slots included, as long as no rank had to evict (they evict their own oldest).

    >>> bank = ShardedBank(Bank(config, num_rows=1, num_kv_heads=3, head_dim=64))  # doctest: +SKIP
    >>> bank.write(keys, values, token_ids)  # doctest: +SKIP
    >>> keys, values, mask, hits = bank.retrieve(queries, top_k=16)  # doctest: +SKIP
    """

    def __init__(self, bank: Bank, group: distributed.ProcessGroup | None = None):
        self.bank, self.group = bank, group
        self.rank, self.size = distributed.get_rank(group), distributed.get_world_size(group)
        self.next_slots = [0] * bank.num_rows
        self.slots = [torch.zeros(0, dtype=torch.int64, device=bank.device) for _ in bank.rows]
        """For each row the slots, as one bank would have given them, of the chunks written to this part."""

    def write(
        self,
        keys: Tensor,
        values: Tensor,
        token_ids: Tensor,
        *,
        rows: Rows | None = None,
        documents: Sequence[int | None] | None = None,
        spans: Tensor | None = None,
    ) -> None:
        """As `Bank.write`, without padding: this rank keeps its run of the chunks of each batch row."""
        numbers = row_numbers(rows, token_ids.shape[0], self.bank.num_rows)
        chunks = -(-token_ids.shape[1] // self.bank.config.chunk_size)
        run = -(-chunks // self.size)
        low, high = min(self.rank * run, chunks), min((self.rank + 1) * run, chunks)
        part = slice(low * self.bank.config.chunk_size, high * self.bank.config.chunk_size)
        for number in numbers:
            own = torch.arange(low, high, device=self.bank.device) + self.next_slots[number]
            self.slots[number] = torch.cat((self.slots[number], own))
            self.next_slots[number] += chunks
        if high > low:
            self.bank.write(
                keys[..., part, :],
                values[..., part, :],
                token_ids[:, part],
                rows=numbers,
                documents=documents,
                spans=None if spans is None else spans[:, part],
            )

    def search(self, queries: Tensor, top_k: int, *, rows: Rows | None = None, layer: int = 0) -> Hits:
        """As `Bank.search`, over all ranks; of equal scores the older chunk comes first."""
        own = self.bank.search(queries, top_k, rows=rows, layer=layer)
        slots = own.slots.clone()
        for batch, number in enumerate(row_numbers(rows, len(queries), self.bank.num_rows)):
            if len(self.slots[number]):
                slots[batch] = self.slots[number][own.slots[batch]]
        slots, scores, valid = (self._gathered(part) for part in (slots, own.scores.float(), own.valid))
        order = slots.argsort(dim=-1, stable=True)
        slots, scores, valid = (part.gather(-1, order) for part in (slots, scores, valid))
        best = scores.argsort(dim=-1, descending=True, stable=True)[..., :top_k]
        slots, scores, valid = (part.gather(-1, best) for part in (slots, scores, valid))
        return Hits(slots.masked_fill(~valid, 0), scores.to(own.scores.dtype), valid)

    def gather(self, hits: Hits, *, rows: Rows | None = None, layer: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """As `Bank.gather`, each rank giving what it holds."""
        own, valid = torch.zeros_like(hits.slots), hits.valid.clone()
        for batch, number in enumerate(row_numbers(rows, len(hits.slots), self.bank.num_rows)):
            known = self.slots[number]
            if not len(known):
                valid[batch] = False
                continue
            indices = torch.searchsorted(known, hits.slots[batch]).clamp_(max=len(known) - 1)
            valid[batch] &= known[indices] == hits.slots[batch]
            own[batch] = indices
        keys, values, mask = self.bank.gather(hits._replace(slots=own, valid=valid), rows=rows, layer=layer)
        parts = [part.masked_fill(~mask[..., None], 0) for part in (keys, values)]
        held = mask.to(keys.dtype)
        for part in (*parts, held):  # of each token one rank gives what it is, the others zero
            distributed.all_reduce(part, group=self.group)
        return parts[0], parts[1], held > 0

    def retrieve(self, queries: Tensor, top_k: int, rows: Rows | None = None, layer: int = 0) -> Retrieved:
        """`search` and `gather` in one."""
        hits = self.search(queries, top_k, rows=rows, layer=layer)
        return Retrieved(*self.gather(hits, rows=rows, layer=layer), hits)

    def _gathered(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks along the last axis."""
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor.contiguous(), group=self.group)
        return torch.cat(parts, dim=-1)
