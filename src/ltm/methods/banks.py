"""A method's bank: an empty one of the right shape, what a window sees of it, and the refusal of another model's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ltm.backbone import Backbone
from ltm.bank import Bank, BankConfig, BankPart, LayeredBank, MethodEntry
from ltm.errors import BankMismatchError
from ltm.memory import Memory
from ltm.streams import Window

if TYPE_CHECKING:
    from ltm.methods.reader import Reader


def bank_for(
    method: Reader, config: BankConfig, num_rows: int, layers: Sequence[int], key_center: Tensor | None = None
) -> Bank:
    """An empty bank for keys and values of some layers of a method's backbone, in its dtype and on its device."""
    backbone = method.backbone
    bank = Bank(
        config,
        num_rows=num_rows,
        num_kv_heads=backbone.view.num_kv_heads,
        head_dim=backbone.view.head_dim,
        layers=layers,
        dtype=backbone.dtype,
        device=backbone.device,
        fingerprint=backbone.fingerprint,
        backbone=backbone.name,
        key_center=key_center,
    )
    bank.method = method_entry(method)
    return bank


def past_of(window: Window, rows: Tensor) -> LayeredBank:
    """What a window's memory holds in these rows, int64 [batch], and after it what its stream has spilled; empty where
    memory is off."""
    if window.memory is None:
        return LayeredBank([])
    parts = [BankPart(window.memory, rows)]
    spilled = None if window.stream is None else window.stream.carried.get("spilled")
    if spilled is not None:
        parts.append(BankPart(spilled, torch.arange(len(rows), device=rows.device)))
    return LayeredBank(parts)


def method_entry(method: Reader) -> MethodEntry:
    """What a bank notes of the method that writes it, so that it is opened with the same one."""
    options = {name: getattr(method.method_config, name) for name in method.bank_options}
    return MethodEntry(method.name, options, method.weights_path)


def check_bank(bank: Bank, backbone: Backbone, layers: Sequence[int], others: Iterable[str] = ()) -> None:
    """Raise BankMismatchError where a bank is of other layers or of another backbone; others: what else is not as the
    method needs it."""
    differences = list(others)
    if tuple(bank.layers) != tuple(layers):
        differences.append(f"layers: bank {_named(bank.layers)}, model {_named(layers)}")
    if bank.fingerprint is not None:
        differences += bank.fingerprint.differences(backbone.fingerprint)
    elif bank.largest_token_id >= backbone.view.vocab_size:
        differences.append(f"token ids: bank up to {bank.largest_token_id}, model below {backbone.view.vocab_size}")
    if differences:
        raise BankMismatchError(
            f"this bank is not for this model: {'; '.join(differences)}; read the text again, or rebuild the bank from "
            "the texts it keeps (ltm bank rebuild)"
        )


def check_unchanged(memory: Memory, method: Reader) -> None:
    """Raise BankMismatchError where a backbone, or what was trained beside it and writes, is not what it was when a
    memory was made: adapters, weights or settings changed since. Costs a look at both (`Backbone.fingerprint`)."""
    device, backbone = memory.device, method.backbone
    if device is not None and device.type != backbone.device.type:
        raise BankMismatchError(
            f"this memory lies on {device}, its model on {backbone.device}; put it back, or save the memory and "
            f"load it there (Bank.load(path, device={str(backbone.device)!r}))"
        )
    if memory.fingerprint is None or method.in_training:
        return
    if differences := memory.fingerprint.differences(backbone.fingerprint) + writer_differences(memory, method):
        raise BankMismatchError(
            f"{backbone.name} has changed since this memory was made: {'; '.join(differences)}; put it back as it was, "
            "or read the texts again into a new memory"
        )


def writer_differences(memory: Memory, method: Reader) -> list[str]:
    """A line where another trained network than the method's wrote a memory, or the backbone alone did."""
    if memory.writer_digest == method.writer_digest:
        return []
    wrote, writes = map(_writer_named, (memory.writer_digest, method.writer_digest))
    return [f"what it holds: bank {wrote}, model {writes}"]


def _writer_named(digest: str | None) -> str:
    return "of the backbone" if digest is None else f"of the trained network {digest}"


def _named(layers: Sequence[int]) -> str:
    """ "3", "3 and 7", "0 to 29"."""
    if len(layers) > 2 and tuple(layers) == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return " and ".join(map(str, layers)) or "none"
