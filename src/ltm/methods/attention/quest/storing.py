"""A paged cache as a bank, and back: keys are stored without their positions, which are put on again when it is opened.

Chunks of the bank hold the tokens in order. They are the unit of storage and of provenance, not the pages: a document
that is deleted leaves the others' chunks as they are, while pages are counted anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ltm.attention import rotate, unrotate
from ltm.backbone import Backbone, BackboneView
from ltm.bank import Bank, BankConfig
from ltm.methods.attention.quest.reader import PageReader
from ltm.methods.banks import bank_for, check_bank
from ltm.methods.reader import Reader
from ltm.methods.trace import Trace
from ltm.streams.pages import Columns, PagedCache


def new_bank(method: Reader, num_rows: int) -> Bank:
    """A bank of all layers of a backbone that never lets anything go."""
    config = BankConfig(chunk_size=method.method_config.page_size, memory_size=None)
    return bank_for(method, config, num_rows, range(method.backbone.view.num_layers))


def check_quest_bank(bank: Bank, backbone: Backbone) -> None:
    """Raise BankMismatchError where a bank holds other layers, is for another backbone, or lets old tokens go."""
    limited = bank.config.memory_size is not None or bank.config.memory_bytes is not None
    others = ["memory: the bank lets old tokens go, Quest keeps all"] if limited else []
    check_bank(bank, backbone, range(backbone.view.num_layers), others)


@torch.no_grad()
def write(
    bank: Bank,
    cache: PagedCache,
    view: BackboneView,
    mask: Tensor,
    documents: Sequence[int] | None = None,
    spans: Tensor | None = None,
) -> None:
    """Add to each row of the bank the tokens that the cache holds beyond it.

    mask, documents, spans: of these tokens, as `Reader.read` has them.
    """
    for row, token_ids in enumerate(cache.tokens or []):
        stored = bank.num_tokens(row)
        places = torch.arange(stored, len(token_ids), device=token_ids.device)
        if not len(places):
            continue
        keys, values = _states(cache, view, row, places)
        bank.write(
            keys,
            values,
            token_ids[None, stored:],
            rows=[row],
            documents=None if documents is None else [documents[row]],
            spans=None if spans is None else spans[row][mask[row]][None],
        )


def _states(cache: PagedCache, view: BackboneView, row: int, places: Tensor) -> tuple[Tensor, Tensor]:
    """Keys without positions and values of tokens of a row, [layers, 1, kv_heads, tokens, head_dim]."""
    columns, keys, values = cache.columns_of(row)[places], [], []
    for index in range(view.num_layers):
        layer, angles = cache.layer(index), view.angles(places[None], index)
        own_keys, own_values = (states[row : row + 1, :, columns] for states in layer.held)
        keys.append(own_keys if angles is None else unrotate(own_keys, *angles))
        values.append(own_values)
    return torch.stack(keys), torch.stack(values)


@torch.no_grad()
def restore(bank: Bank, cache: PagedCache, view: BackboneView) -> PagedCache:
    """Fill an empty cache with what a bank holds, each row's tokens at positions from 0, padded on the left."""
    lengths = [bank.num_tokens(row) for row in range(bank.num_rows)]
    cache.begin(bank.num_rows, bank.device)
    cache.reading = True
    longest = max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.long, device=bank.device)
    mask = torch.arange(longest, device=bank.device) >= longest - torch.tensor(lengths, device=bank.device)[:, None]
    chunks = [_row_tokens(bank, row) for row in range(bank.num_rows)]
    for row, (token_ids, _, _) in enumerate(chunks):
        ids[row, longest - lengths[row] :] = token_ids
    for index in range(view.num_layers):
        shape = (len(lengths), bank.num_kv_heads, longest, bank.head_dim)
        keys = torch.zeros(shape, dtype=bank.dtype, device=bank.device)
        values = torch.zeros_like(keys)
        for row, (_, own_keys, own_values) in enumerate(chunks):
            start = longest - lengths[row]
            angles = view.angles(torch.arange(lengths[row], device=bank.device)[None], index)
            placed = own_keys[None, index]
            keys[row, :, start:] = (placed if angles is None else rotate(placed, *angles))[0]
            values[row, :, start:] = own_values[index]
        cache.caches[0].update(keys, values, index)
    cache.append(ids, mask)
    cache.valid, cache.reading = mask, False
    return cache


def _row_tokens(bank: Bank, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """A row's token ids [tokens], and keys and values [layers, kv_heads, tokens, head_dim], in order."""
    chunks = bank.chunks(row)
    filled = torch.arange(bank.config.chunk_size)[None] < chunks["counts"][:, None]  # [chunks, chunk_size]
    ids = chunks["token_ids"].long()[filled]
    keys, values = (chunks[name][:, :, filled].to(bank.device) for name in ("keys", "values"))
    return ids.to(bank.device), keys, values


def note_usage(trace: Trace, bank: Bank, reader: PageReader, rows: Tensor) -> None:
    """Add to a trace how much attention each chunk of the bank got, averaged over heads and the layers that choose; the
    first page is left out, which heads with nothing to look for look at."""
    weights = torch.stack(reader.weights).mean(dim=0)  # [batch, tokens, columns]
    weights = weights.masked_fill((reader.columns.places < reader.config.page_size)[:, None], 0.0)
    found = [_by_chunk(bank, int(row), weights[batch], reader.columns, batch) for batch, row in enumerate(rows)]
    most = max(len(slots) for slots, _ in found)
    slots = torch.zeros(len(found), 1, weights.shape[1], most, dtype=torch.long)
    shares = torch.zeros(slots.shape)
    for batch, (own_slots, own_shares) in enumerate(found):
        slots[batch, 0, :, : len(own_slots)] = own_slots
        shares[batch, 0, :, : len(own_slots)] = own_shares
    trace.note(bank, rows, slots, shares)


def _by_chunk(bank: Bank, row: int, weights: Tensor, columns: Columns, batch: int) -> tuple[Tensor, Tensor]:
    """Slots [chunks] of a row of the bank, and what its tokens got of a batch row's weights, [tokens, chunks]."""
    chunks = bank.chunks(row)
    chunk_of = torch.arange(len(chunks["counts"])).repeat_interleave(chunks["counts"].long())
    held = columns.of_tokens[batch, : len(chunk_of)]
    shares = weights.new_zeros(len(weights), len(chunks["counts"]))
    return chunks["numbers"], shares.index_add_(1, chunk_of.to(weights.device), weights[:, held])
