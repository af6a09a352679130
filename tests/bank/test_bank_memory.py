"""A bank as a memory: rows that the first read makes, and a version that changes with what is held."""

from __future__ import annotations

import pytest
from bank.model_bank import tokens_of

from ltm.bank import Bank, BankConfig
from ltm.errors import BankError
from ltm.memory import Memory


def make(num_rows: int = 0, **settings) -> Bank:
    return Bank(BankConfig(**{"chunk_size": 4, **settings}), num_rows=num_rows, num_kv_heads=2, head_dim=8)


def test_a_bank_is_a_memory_and_its_own_bank():
    bank = make(2)
    assert isinstance(bank, Memory) and bank.bank is bank and bank.num_rows == 2


def test_the_first_read_makes_the_rows():
    bank, other = make(), make(2)
    assert bank.num_rows == 0 and bank.nbytes == 0 and bank.documents == [] and bank.is_empty
    with pytest.raises(BankError, match="has no rows yet; say how many with begin"):
        bank.write(*tokens_of(5))
    bank.begin(2)
    bank.begin(3)  # nothing: it has rows
    for each in (bank, other):
        each.write(*tokens_of(9, batch=2))
    queries, *_ = tokens_of(3, batch=2, seed=1)
    assert not bank.is_empty
    assert bank.num_rows == 2 and bank.search(queries, 2).slots.equal(other.search(queries, 2).slots)


def test_a_bank_without_rows_is_saved_and_goes_on_when_it_has_some(tmp_path):
    bank = make()
    bank.save(tmp_path / "bank")
    assert Bank.load(tmp_path / "bank").num_rows == 0 and Bank.verify(tmp_path / "bank").rows == []
    for opened in (bank, Bank.load(tmp_path / "bank")):
        opened.begin(1)
        opened.write(*tokens_of(9))
        opened.save(tmp_path / "bank", overwrite=opened is not bank)
        assert Bank.load(tmp_path / "bank").num_tokens() == 9


def test_a_failed_first_read_leaves_no_rows():
    bank = make()
    with pytest.raises(ZeroDivisionError), bank.undone_on_failure():
        bank.begin(2)
        bank.write(*tokens_of(9, batch=2))
        _ = 1 / 0
    assert bank.num_rows == 0
    bank.begin(1)
    assert bank.num_tokens() == 0


def test_its_rows_are_chosen_and_reset_when_there_are_none():
    bank = make()
    bank.reset()
    assert bank.select([]).num_rows == 0


def test_the_version_changes_with_what_is_held(tmp_path):
    bank, other = make(1), make(1)
    seen = [bank.version, other.version]

    def changed() -> bool:
        seen.append(bank.version)
        return seen[-1] not in seen[:-1]

    document = bank.add_document("one")
    bank.write(*tokens_of(9), documents=[document])
    assert changed()
    bank.delete_document(document)
    assert changed()
    other.write(*tokens_of(9))
    bank.merge(other)
    assert changed()
    with pytest.raises(ZeroDivisionError), bank.undone_on_failure():
        bank.write(*tokens_of(9))
        assert changed()
        _ = 1 / 0
    assert changed()
    bank.reset([0])
    assert changed()
    assert bank.select([0]).version not in seen


def test_the_version_stays_while_nothing_is_written(tmp_path):
    bank = make(1)
    bank.write(*tokens_of(9))
    before = bank.version
    bank.search(tokens_of(3)[0], 2)
    bank.retrieve(tokens_of(3)[0], 2)
    bank.save(tmp_path / "bank")
    assert bank.version == before
