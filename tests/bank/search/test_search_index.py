"""faiss and Qdrant behind the same interface: they find what exact search finds, through all changes of a row."""

from __future__ import annotations

import sys

import pytest
import torch
from bank.model_bank import tokens_of

from ltm.bank import Bank, BankConfig
from ltm.errors import LtmError

SHAPE = {"num_rows": 1, "num_kv_heads": 2, "head_dim": 8, "layers": (1, 5)}


@pytest.mark.parametrize(("name", "module"), [("faiss", "faiss"), ("qdrant", "qdrant_client")])
def test_others_find_what_exact_finds(name, module, monkeypatch):
    pytest.importorskip(module, reason=f"{module} is not installed")
    monkeypatch.delenv("LTM_QDRANT_URL", raising=False)  # tests run without a server
    exact, faiss = (Bank(BankConfig(memory_size=200, index=index), **SHAPE) for index in ("exact", name))
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
    (index,) = (row.search_index for row in faiss.rows)
    if name == "qdrant":
        assert [index.client.count(index._collection(0, head)).count for head in (0, 1)] == [faiss.num_chunks()] * 2
        return
    assert [part.ntotal for part in index.layers[0]] == [faiss.num_chunks()] * 2


def test_without_faiss_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(LtmError, match=r'pip install "ltm\[faiss\]"'):
        Bank(BankConfig(index="faiss"), **SHAPE)


def test_without_qdrant_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(LtmError, match=r'pip install "ltm\[qdrant\]"'):
        Bank(BankConfig(index="qdrant"), **SHAPE)


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    monkeypatch.setenv("LTM_QDRANT_URL", "http://127.0.0.1:9")
    with pytest.raises(LtmError, match="no Qdrant answers at http://127.0.0.1:9"):
        Bank(BankConfig(index="qdrant"), **SHAPE)
