"""Budgets in tokens and bytes, first in first out, against a bank made of lists."""

from __future__ import annotations

import pytest
import torch
from bank.model_bank import ModelRow, assert_row_is, tokens_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm.bank import Bank, BankConfig
from ltm.errors import ConfigError

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), st.integers(1, 30), st.sampled_from([None, 0, 1])),
        st.tuples(st.just("delete"), st.integers(0, 1)),
        st.tuples(st.just("reset"), st.integers(0, 1)),
        st.tuples(st.just("select"), st.permutations([0, 1])),
        st.tuples(st.just("load"), st.booleans()),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=120, deadline=None)
@given(
    operations=OPERATIONS,
    chunk_size=st.integers(1, 5),
    memory_size=st.one_of(st.none(), st.integers(5, 60)),
    max_chunks=st.one_of(st.none(), st.integers(1, 12)),
    index=st.sampled_from(["exact", "exact", "faiss"]),
)
def test_any_history_gives_what_lists_give(tmp_path_factory, operations, chunk_size, memory_size, max_chunks, index):
    if index == "faiss":
        pytest.importorskip("faiss", reason="faiss is not installed")
    path = tmp_path_factory.mktemp("bank") / "a.bank"
    bank = new_bank(chunk_size, memory_size, max_chunks, index)
    models = [ModelRow(chunk_size, memory_size, max_chunks) for _ in range(2)]
    ids = {0: bank.add_document("a", row=0, text="A"), 1: bank.add_document("b", row=1)}
    for seed, (operation, *arguments) in enumerate(operations):
        if operation == "write":
            row, count, document = arguments
            keys, values, tokens = tokens_of(count, kv_heads=1, head_dim=4, seed=seed)
            number = ids.get(document)
            bank.write(keys, values, tokens, rows=[row], documents=[number])
            models[row].write(keys, values, tokens[0].tolist(), number)
        elif operation == "delete" and arguments[0] in ids:
            number = ids.pop(arguments[0])
            bank.delete_document(number)
            for model in models:
                model.delete(number)
        elif operation == "reset":
            bank.reset(arguments)
            models[arguments[0]].chunks.clear()
            ids = {name: number for name, number in ids.items() if number in [d.id for d in bank.documents]}
        elif operation == "select":
            (order,) = arguments
            bank, models = bank.select(order), [models[row] for row in order]
            path = path.with_suffix(f".{seed}")  # another bank now
        elif operation == "load":
            bank.save(path)
            bank = Bank.load(path, mmap=arguments[0])
        for row, model in enumerate(models):
            assert_row_is(bank, row, model)
            check_budget(bank, row)


def new_bank(chunk_size, memory_size, max_chunks, index="exact"):
    shape = {"num_rows": 2, "num_kv_heads": 1, "head_dim": 4}
    of_chunk = Bank(BankConfig(chunk_size=chunk_size), **shape).layout.bytes_per_chunk
    memory_bytes = None if max_chunks is None else max_chunks * of_chunk + of_chunk // 2
    return Bank(BankConfig(chunk_size, memory_size, memory_bytes, index=index), **shape)


def check_budget(bank: Bank, row: int) -> None:
    config = bank.config
    assert config.memory_size is None or bank.num_tokens(row) <= config.memory_size
    assert config.memory_bytes is None or bank.rows[row].nbytes <= config.memory_bytes


def test_the_oldest_chunks_leave_first(make_bank):
    bank = make_bank(memory_size=20)
    for number in range(10):
        keys, values, _ = tokens_of(6, seed=number)
        bank.write(keys, values, torch.arange(6)[None] + 10 * number)
        held = [token for source in bank.sources(range(2 * number + 2)) for token in source.token_ids]
        assert held == [10 * n + t for n in range(number + 1) for t in range(6)][-len(held) :]
        assert len(held) == min(6 * (number + 1), 20)


def test_a_write_larger_than_the_memory_keeps_its_end(make_bank):
    bank = make_bank(memory_size=16)
    bank.write(*tokens_of(5))
    keys, values, ids = tokens_of(50, seed=1)
    bank.write(keys, values, ids)
    model = ModelRow(4, 16, next_slot=2)
    model.write(keys, values, ids[0].tolist(), None)
    assert_row_is(bank, 0, model)
    assert bank.num_tokens() == 14  # 3 whole chunks and the short one


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_budget_in_bytes_is_kept_in_tensor_bytes(make_bank, dtype):
    budget = 20_000
    bank = make_bank(memory_size=None, memory_bytes=budget, num_rows=2, dtype=dtype)
    for number in range(60):
        bank.write(*tokens_of(13, seed=number), rows=[0])
        tensors = bank.rows[0].ring.buffers.values()
        assert sum(t.untyped_storage().nbytes() for t in tensors) == bank.nbytes <= budget
    assert bank.nbytes > budget - bank.layout.bytes_per_chunk  # and is used
    per_token = 2 * 2 * 8 * dtype.itemsize + 4  # keys, values, id
    per_chunk = 2 * 8 * dtype.itemsize + 8 + 4 + 4 + 2 * 4  # search key, number, count, document, span
    assert bank.layout.bytes_per_chunk == 4 * per_token + per_chunk
    assert bank.num_chunks() == budget // bank.layout.bytes_per_chunk


def test_a_budget_in_tokens_takes_the_bytes_of_so_many_tokens(make_bank):
    bank = make_bank(memory_size=1000)
    for number in range(40):
        bank.write(*tokens_of(40, seed=number))
        held, allocated = bank.num_chunks() * bank.layout.bytes_per_chunk, bank.nbytes
        assert held <= allocated <= max(held * 1.25, 16 * bank.layout.bytes_per_chunk)
    assert bank.nbytes == 250 * bank.layout.bytes_per_chunk and bank.num_tokens() == 1000


def test_a_budget_that_holds_no_chunk_is_refused(make_bank):
    with pytest.raises(ConfigError, match="memory_bytes=100 holds no chunk; one takes 616 bytes"):
        make_bank(memory_bytes=100)
