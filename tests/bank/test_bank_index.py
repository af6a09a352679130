"""faiss behind the same interface: what it finds is what the exact search finds, through every change of a row."""

from __future__ import annotations

import sys

import pytest
import torch
from model_bank import tokens_of

from ltm.bank import Bank, BankConfig
from ltm.errors import LtmError

SHAPE = {"num_rows": 1, "num_kv_heads": 2, "head_dim": 8, "layers": (1, 5)}


def test_faiss_finds_what_exact_finds():
    pytest.importorskip("faiss", reason="faiss is not installed")
    exact, faiss = (Bank(BankConfig(memory_size=200, index=name), **SHAPE) for name in ("exact", "faiss"))
    document = [bank.add_document("d") for bank in (exact, faiss)][0]
    query = torch.randn(1, 4, 3, 8, generator=torch.Generator().manual_seed(0))

    def compare() -> None:
        for layer in (0, 1):
            one, two = exact.retrieve(query, 12, layer=layer), faiss.retrieve(query, 12, layer=layer)
            assert one.hits.valid.any() and torch.equal(one.hits.slots, two.hits.slots)
            torch.testing.assert_close(one.hits.scores, two.hits.scores, atol=1e-5, rtol=1e-5)
            assert torch.equal(one.keys, two.keys) and torch.equal(one.mask, two.mask)

    for seed, count in enumerate((3, 50, 90, 100, 1, 400, 30)):  # grows, evicts some, evicts all
        keys, values, ids = tokens_of(count, batch=2, seed=seed)
        for bank in (exact, faiss):
            bank.write(keys[:, None], values[:, None], ids[:1], documents=[document if seed % 2 else None])
        if seed != 1:  # two writes before a search now and then
            compare()
    for bank in (exact, faiss):
        bank.delete_document(document)
    compare()
    (index,) = (row.index for row in faiss.rows)
    assert [part.ntotal for part in index.layers[0]] == [faiss.num_chunks()] * 2


def test_without_faiss_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(LtmError, match=r'pip install "ltm\[faiss\]"'):
        Bank(BankConfig(index="faiss"), **SHAPE)
