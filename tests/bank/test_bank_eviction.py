"""What leaves a full memory: the policies against a loop over dicts, through writes, searches, deletion and disk."""

from __future__ import annotations

import pytest
import torch
from bank.model_bank import tokens_of
from reference.eviction import naive_evict

from ltm.bank import EVICTIONS, Bank, BankConfig, WaitingQueries
from ltm.errors import ConfigError

SIZE, CHUNK = 24, 2


def make(evict: str, **options) -> Bank:
    config = BankConfig(chunk_size=CHUNK, evict=evict, **{"memory_size": SIZE, **options})
    return Bank(config, num_rows=1, num_kv_heads=2, head_dim=8)


def write(bank: Bank, count: int, seed: int, document: int | None = None) -> None:
    keys, values, ids = tokens_of(count, seed=seed)
    bank.write(keys, values, ids, documents=[document])


@pytest.mark.parametrize("policy", ["oldest", "least_recent", "least_frequent"])
def test_policies_are_the_reference(policy, tmp_path):
    bank, model, now, slot = make(policy), [], 0, 0
    left_otherwise = False
    for step, count in enumerate((9, 8, 7, 5, 6, 3, 30, 4, 9)):
        tokens = [CHUNK] * (count // CHUNK) + [count % CHUNK] * (count % CHUNK > 0)
        excess = sum(chunk["tokens"] for chunk in model) + count - SIZE
        model = naive_evict(model, excess, policy, now)
        for size in tokens:
            model.append({"slot": slot, "tokens": size, "written": now, "last": now, "times": 0})
            slot += 1
        while sum(chunk["tokens"] for chunk in model) > SIZE:  # more came at once than fits
            model.pop(0)
        write(bank, count, step)
        assert bank.rows[0].slots().tolist() == [chunk["slot"] for chunk in model]
        assert bank.num_tokens() == sum(chunk["tokens"] for chunk in model) <= SIZE
        slots = [chunk["slot"] for chunk in model]
        left_otherwise |= slots != list(range(slots[0], slots[-1] + 1))
        query = torch.randn(1, 4, 3, 8, generator=torch.Generator().manual_seed(100 + step))
        found = bank.search(query, 3).slots
        now += 6  # 3 tokens of 2 heads ask each kv head
        for chunk in model:
            times = int((found == chunk["slot"]).sum())
            chunk["times"] += times
            chunk["last"] = now if times else chunk["last"]
        bank.save(tmp_path / "bank")
        loaded = Bank.load(tmp_path / "bank")
        assert loaded.rows[0].slots().tolist() == slots and loaded.config.evict == policy
    assert left_otherwise == (policy != "oldest")


def test_a_users_own_policy_and_an_unknown_one(monkeypatch):
    monkeypatch.setitem(EVICTIONS, "newest", lambda usage: -torch.arange(len(usage.written)))
    bank = make("newest")
    for seed in range(4):
        write(bank, 12, seed)
    assert bank.rows[0].slots().tolist() == [*range(6), *range(18, 24)]
    with pytest.raises(ConfigError, match="evict='random'; use one of least_frequent, least_recent, newest, oldest"):
        make("random")


def test_what_is_used_stays_also_after_deletion_copies_and_a_budget_in_bytes():
    chunk = make("oldest").layout.bytes_per_chunk
    bank = make("least_recent", memory_size=None, memory_bytes=12 * chunk)
    first = bank.add_document("first")
    write(bank, 4, 0, first)
    write(bank, 20, 1)
    keys = tokens_of(4, seed=0)[0]
    for seed in range(2, 6):
        found = bank.search(keys[:, :, :1], 1)  # the first chunk's own keys keep it alive
        write(bank, 6, seed)
        assert bank.nbytes <= 12 * chunk
    assert 0 in bank.rows[0].slots().tolist() and found.slots.min() == 0
    copy = bank.select([0])
    copy.delete_document(first)
    write(copy, 2, 9)
    assert 0 not in copy.rows[0].slots().tolist() and 0 in bank.rows[0].slots().tolist()


def test_queries_that_wait_find_later_keys():
    keys, values, ids = tokens_of(40)
    queries = torch.randn(1, 4, 40, 8, generator=torch.Generator().manual_seed(3))
    for wait in (0, 7, 100):
        bank = make("oldest", memory_size=None)
        waiting, found = WaitingQueries(bank, wait, top_k=3), []
        for token in range(0, 40, 2):
            piece = slice(token, token + 2)
            bank.write(keys[:, :, piece], values[:, :, piece], ids[:, piece])
            found.append(waiting.push(queries[:, :, piece]))
        found.append(waiting.flush())
        slots = torch.cat([one.hits.slots for one in found if one is not None], dim=2)
        assert slots.shape[2] == 40
        expected = []
        for token in range(40):  # the reference: each query asks a bank of what had come when it was let go
            let_go = min((token + wait) // 2 * 2 + 2, 40)
            seen = make("oldest", memory_size=None)
            seen.write(keys[:, :, :let_go], values[:, :, :let_go], ids[:, :let_go])
            expected.append(seen.search(queries[:, :, token : token + 1], 3).slots)
        valid = torch.arange(40) >= 6  # before, fewer than 3 chunks may be there
        assert torch.equal(slots[:, :, valid], torch.cat(expected, dim=2)[:, :, valid])
        assert bool((slots[0, :, :10] > 6).any()) == (wait > 0)  # later keys are found only by who waits
