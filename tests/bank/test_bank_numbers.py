"""Numbers that are none, and ids that name no token: refused when they are written and when they are read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from bank.model_bank import tokens_of
from bank.resigned import read_values, shard_entries, sign_shard, write_values
from safetensors.torch import load, save

from ltm.backbone import load_backbone
from ltm.backbone.fingerprint import Fingerprint
from ltm.bank import Bank, BankConfig, EventCut
from ltm.bank.disk import loading
from ltm.errors import BankCorruptError, BankError, BankMismatchError, ConfigError
from ltm.methods import create_method

VALUES = [float("nan"), float("inf"), float("-inf")]
FINGERPRINT = Fingerprint("Llama", "ab" * 32, None, 4, 4, 2, 8, 32, 1000, "float32", "null")


def new_bank(storage: str | None = None, **options) -> Bank:
    config = BankConfig(key_storage=storage, value_storage=storage)
    return Bank(config, num_rows=2, num_kv_heads=2, head_dim=8, fingerprint=FINGERPRINT, **options)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("storage", [None, "float16", "int8"])
def test_none_is_written(value, which, storage):
    bank, given = new_bank(storage), list(tokens_of(9, batch=2))
    given[which][1, 1, 8, 7] = value  # of the second row: the first is not written either
    with pytest.raises(BankError, match="NaN|infinite") as error:
        bank.write(*given)
    assert "\n" not in str(error.value) and [bank.num_tokens(row) for row in (0, 1)] == [0, 0]
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 8] = False
    bank.write(*given, mask=mask)  # padding may be anything
    assert bank.num_tokens(1) == 8


def test_what_a_storage_cannot_hold_is_not_written():
    keys, values, ids = tokens_of(4)
    with pytest.raises(BankError, match="keys hold numbers that are none"):
        new_bank("float16").write(keys * 1e6, values, ids)
    source, target = (
        Bank(BankConfig(key_storage=s), num_rows=1, num_kv_heads=2, head_dim=8) for s in (None, "float16")
    )
    source.write(keys * 1e6, values, ids, documents=[source.add_document("large")])
    with pytest.raises(BankError, match="keys hold numbers that are none"):
        target.merge(source)


@pytest.mark.parametrize("token", [-1, 1000, 2**40])
def test_ids_outside_the_vocabulary_are_not_written(token):
    keys, values, ids = tokens_of(4)
    ids[0, 2] = token
    with pytest.raises(BankError, match=f"token ids run from .*{token}.*, those of the vocabulary from 0 to 999"):
        new_bank().write(keys, values, ids)


def test_events_and_the_centre_too():
    bank = Bank(BankConfig(1, event_heads=2), num_rows=1, num_kv_heads=2, head_dim=8)
    cut = EventCut(torch.tensor([4]), torch.full((1, 1, 16), float("nan")))
    with pytest.raises(BankError, match="event_keys hold numbers that are none"):
        bank.write(*tokens_of(4), events=[cut])
    with pytest.raises(ConfigError, match="key_center holds numbers that are none"):
        Bank(num_rows=1, num_kv_heads=2, head_dim=8, key_center=torch.full((1, 2, 8), float("nan")))


@pytest.mark.parametrize(
    "name, value",
    [("keys", VALUES[0]), ("values", VALUES[1]), ("search_keys", VALUES[0]), ("token_ids", 1000), ("token_ids", -1)],
)
def test_none_is_read(tmp_path, monkeypatch, name, value):
    path, bank = tmp_path / "a.bank", new_bank()
    bank.write(*tokens_of(9), rows=[0])
    bank.save(path)
    spoil(path, name, value)
    for opening in (Bank.load, Bank.verify):
        with pytest.raises(BankCorruptError, match=f"{name.replace('_ids', ' ids')}.*(none|vocabulary)"):
            opening(path)
    monkeypatch.setattr(loading, "VERIFY_BYTES", 0)  # a large bank: what stays in its files is not read at once
    with pytest.raises(BankCorruptError):
        (Bank.verify if name in ("keys", "values") else Bank.load)(path)


def spoil(path, name: str, value: float) -> None:
    values = read_values(path)
    (entry,) = shard_entries(values)
    tensors = load((path / entry["file"]).read_bytes())
    tensors[name].view(-1)[3] = value
    sign_shard(path, entry, save(tensors))
    write_values(path, values)


def test_a_scale_or_a_centre_that_is_none(tmp_path):
    path, bank = tmp_path / "a.bank", new_bank("int4", key_center=torch.zeros(1, 2, 8))
    bank.write(*tokens_of(9), rows=[0])
    bank.save(path)
    values = read_values(path)
    values["manifest"]["key_center"] = "AADAfw" + values["manifest"]["key_center"][6:]
    write_values(path, values)
    with pytest.raises(BankCorruptError, match="key_center: it holds numbers that are none"):
        Bank.load(path)
    spoil(path, "keys.scale", VALUES[0])
    values["manifest"]["key_center"] = None
    write_values(path, {"manifest": values["manifest"] | {"journal": read_values(path)["manifest"]["journal"]}})
    with pytest.raises(BankCorruptError, match=r"its keys\.scale hold numbers that are none"):
        Bank.load(path)


def test_a_bank_without_a_fingerprint_is_compared_with_the_backbones_vocabulary():
    backbone = load_backbone("tiny-llama")
    method = create_method("quest", backbone)
    view = backbone.view
    bank = Bank(
        method.new_bank(1).config,
        num_rows=1,
        num_kv_heads=view.num_kv_heads,
        head_dim=view.head_dim,
        layers=range(view.num_layers),
        dtype=backbone.dtype,
    )
    keys = torch.zeros(view.num_layers, 1, view.num_kv_heads, 1, view.head_dim)
    bank.write(keys, keys, torch.tensor([[view.vocab_size]]))
    with pytest.raises(BankMismatchError, match=f"token ids: bank up to {view.vocab_size}, model below"):
        method.use_bank(bank)
    assert replace(backbone.fingerprint).vocab_size == view.vocab_size
