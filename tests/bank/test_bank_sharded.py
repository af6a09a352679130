"""A bank over several processes finds and fetches what one bank with everything does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bank.model_bank import tokens_of
from torch import distributed, multiprocessing

from ltm.bank import Bank, BankConfig, ShardedBank


def bank() -> Bank:
    return Bank(BankConfig(chunk_size=3, memory_size=None), num_rows=2, num_kv_heads=2, head_dim=8)


def exercise(memory) -> list[torch.Tensor]:
    """The same writes and questions for either kind."""
    found = []
    for step, count in enumerate((1, 40, 7, 200)):
        keys, values, ids = tokens_of(count, batch=2, seed=step)
        memory.write(keys, values, ids)
        if step == 2:  # one row alone, with keys that are there already: equal scores
            memory.write(keys[:1], values[:1], ids[:1], rows=[1])
        query = torch.randn(3, 4, 5, 8, generator=torch.Generator().manual_seed(step))
        keys, values, mask, hits = memory.retrieve(query, 9, rows=[0, 1, 1])
        shown = mask[..., None]
        found += [hits.slots, hits.scores, hits.valid, mask, keys.where(shown, 0), values.where(shown, 0)]
    return found


def process(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    found = exercise(ShardedBank(bank()))
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("size", [2, 4])
def test_it_is_one_bank(size, tmp_path):
    expected = exercise(bank())
    context = multiprocessing.get_context("fork")  # nothing is imported anew
    running = [context.Process(target=process, args=(rank, size, str(tmp_path))) for rank in range(size)]
    for one in running:
        one.start()
    for one in running:
        one.join(timeout=60)
    assert [one.exitcode for one in running] == [0] * size
    assert bool(expected[2].any()) and not bool(expected[2].all())  # at first there is too little to find
    for rank in range(size):
        for ours, one in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            torch.testing.assert_close(ours, one, atol=1e-5, rtol=1e-5)
