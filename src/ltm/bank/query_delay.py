"""Queries that wait for later keys, so that a memory can serve both directions (Attendre's query memory)."""

from __future__ import annotations

import torch
from torch import Tensor

from ltm.bank.bank import Bank
from ltm.bank.results import Retrieved
from ltm.memory import Rows


class WaitingQueries:
    """A first in, first out memory of queries beside a bank (Yang and Hua, 2024, arXiv:2401.04881, "wait to attend").

    A query stays until `wait` later tokens have been pushed and then retrieves, so that it finds keys that were written
    after it: what an encoder or a prefix needs, and what a causal model must not do. wait=0 retrieves at once. A token
    is pushed after its keys were written to the bank.

    >>> waiting = WaitingQueries(bank, wait=256, top_k=16)  # doctest: +SKIP
    >>> bank.write(keys, values, ids); found = waiting.push(queries)  # doctest: +SKIP
    >>> rest = waiting.flush()  # doctest: +SKIP
    """

    def __init__(self, bank: Bank, wait: int, top_k: int, rows: Rows | None = None, layer: int = 0):
        if wait < 0:
            raise ValueError(f"wait={wait}; use 0 or more tokens")
        self.bank, self.wait, self.top_k, self.rows, self.layer = bank, wait, top_k, rows, layer
        self.queries: Tensor | None = None

    def push(self, queries: Tensor) -> Retrieved | None:
        """Add queries [batch, heads, tokens, head_dim]; what is retrieved for those that waited long enough, in the
        order they came, or None where there are none. Pieces longer than one token find what the piece brought too."""
        held = queries if self.queries is None else torch.cat((self.queries, queries), dim=2)
        return self._release(held, max(held.shape[2] - self.wait, 0))

    def flush(self) -> Retrieved | None:
        """What is retrieved for all that still wait: no later key will come."""
        return None if self.queries is None else self._release(self.queries, self.queries.shape[2])

    def _release(self, held: Tensor, tokens: int) -> Retrieved | None:
        self.queries = held[:, :, tokens:].clone()
        if not tokens:
            return None
        return self.bank.retrieve(held[:, :, :tokens], self.top_k, rows=self.rows, layer=self.layer)
