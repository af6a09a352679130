"""Checks of what comes to a bank, with one-line errors: shapes, rows, numbers that are none, token ids."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from ltm.bank.chunks import ChunkLayout
from ltm.bank.stored_tensor import Chunks
from ltm.errors import BankError, ConfigError


def row_numbers(rows: Sequence[int] | Tensor | None, batch: int, num_rows: int) -> list[int]:
    """The memory row of each batch row as a list; None: 0, 1, ... Raises BankError where they do not fit."""
    if not num_rows and batch:
        raise BankError("this bank has no rows yet; say how many with begin(rows), or read with a method")
    if rows is None:
        if batch > num_rows:
            raise BankError(f"{batch} batch rows came, but the bank has {num_rows}; say with rows= which row each uses")
        return list(range(batch))
    numbers = [int(row) for row in (rows.tolist() if isinstance(rows, Tensor) else rows)]
    if len(numbers) != batch:
        raise BankError(f"rows names {len(numbers)} memory rows for {batch} batch rows; give one for each")
    wrong = [row for row in numbers if not 0 <= row < num_rows]
    if wrong:
        raise BankError(f"row {wrong[0]} is not in this bank; its rows are 0 to {num_rows - 1}")
    return numbers


def check_write(
    layout: ChunkLayout,
    keys: Tensor,
    values: Tensor,
    token_ids: Tensor,
    mask: Tensor | None,
    spans: Tensor | None,
    documents: Sequence[int | None] | None,
) -> None:
    """keys and values [layers, batch, kv_heads, tokens, head_dim] and what goes with them."""
    if token_ids.dim() != 2:
        raise BankError(f"token_ids has shape {tuple(token_ids.shape)}; give [batch, tokens]")
    batch, tokens = token_ids.shape
    expected = (layout.num_layers, batch, layout.num_kv_heads, tokens, layout.head_dim)
    for name, tensor in (("keys", keys), ("values", values)):
        if tuple(tensor.shape) != expected:
            raise BankError(
                f"{name} has shape {tuple(tensor.shape)}; this bank takes {expected}: layers, batch, kv heads, tokens, "
                f"head_dim (layers may be left out where there is one)"
            )
    for name, extra, shape in (("mask", mask, (batch, tokens)), ("spans", spans, (batch, tokens, 2))):
        if extra is not None and tuple(extra.shape) != shape:
            raise BankError(f"{name} has shape {tuple(extra.shape)}; give {shape}, as token_ids has it")
    if documents is not None and len(documents) != batch:
        raise BankError(f"{len(documents)} documents for {batch} batch rows; give one for each, or None")


def check_numbers(chunks: Chunks, token_ids: Tensor, vocab_size: int | None) -> None:
    """Raise BankError where what is about to be stored holds numbers that are none, or ids that name no token."""
    problems = [*token_problems(token_ids, vocab_size), *number_problems(chunks, chunks)]
    if problems:
        what = "; ".join(problem.removeprefix("its ") for problem in problems)
        raise BankError(f"{what}; nothing was written: look at the model's weights, its dtype and the ids")


def number_problems(chunks: Chunks, names: Collection[str]) -> Iterator[str]:
    """Which of these fields hold NaN or infinite numbers: an answer that reads one is all NaN. Least and greatest
    number tell it, at several times the speed of a checksum."""
    for name in names:
        if chunks[name].is_floating_point() and chunks[name].numel():
            low, high = chunks[name].aminmax()
            if not bool(low.isfinite() & high.isfinite()):
                yield f"its {name} hold numbers that are none (NaN or infinite)"


def token_problems(token_ids: Tensor, vocab_size: int | None) -> Iterator[str]:
    """Whether token ids are none of the vocabulary; None: it is not known."""
    most = torch.iinfo(torch.int32).max if vocab_size is None else vocab_size - 1
    if token_ids.numel():
        low, high = (int(bound) for bound in token_ids.aminmax())
        if low < 0 or high > most:
            yield f"its token ids run from {low} to {high}, those of the vocabulary from 0 to {most}"


def check_layout(layout: ChunkLayout) -> None:
    """Raises ConfigError where a storage or the centre of keys does not fit the bank's shapes."""
    problems = []
    if layout.head_dim % 2 and any(codec.storage == "int4" for codec in layout.codecs.values()):
        problems.append(f"int4 puts two numbers in a byte, but head_dim={layout.head_dim} is odd; use int8")
    center, expected = layout.key_center, (layout.num_layers, layout.num_kv_heads, layout.head_dim)
    if center is not None and (tuple(center.shape) != expected or center.dtype != torch.float32):
        problems.append(f"key_center is {center.dtype} {tuple(center.shape)}; give float32 {expected}")
    elif center is not None and not bool(center.isfinite().all()):
        problems.append("key_center holds numbers that are none (NaN or infinite)")
    if problems:
        raise ConfigError(problems)


def check_search(layout: ChunkLayout, queries: Tensor, top_k: int, layer: int) -> None:
    """queries [batch, heads, tokens, head_dim]."""
    fits = queries.dim() == 4 and queries.shape[3] == layout.head_dim
    if not fits or queries.shape[1] == 0 or queries.shape[1] % layout.num_kv_heads:
        raise BankError(
            f"queries has shape {tuple(queries.shape)}; give [batch, heads, tokens, {layout.head_dim}], "
            f"heads a multiple of {layout.num_kv_heads}"
        )
    if layout.event_heads is not None:
        raise BankError("this bank keeps events instead of search keys; see score_events")
    if top_k < 1:
        raise BankError(f"top_k={top_k}; ask for 1 chunk or more")
    check_layer(layout, layer)


def check_layer(layout: ChunkLayout, layer: int) -> None:
    """layer counts the layers that the bank keeps, from 0."""
    if not 0 <= layer < layout.num_layers:
        last = layout.num_layers - 1
        raise BankError(f"layer={layer} is not a place among the {last + 1} layers of this bank; give 0 to {last}")
