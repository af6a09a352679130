"""A bank whose writes are undone is what it was: entries, slots, documents, what searches find."""

from __future__ import annotations

import pytest
import torch

from ltm.bank import Bank, BankConfig, EventCut
from ltm.bank.storage import BITS

HEADS, DIM = 2, 8


class Failed(Exception):
    """What ends a block."""


def make(**settings):
    return Bank(
        BankConfig(**{"chunk_size": 2, "memory_size": 20, **settings}), num_rows=2, num_kv_heads=HEADS, head_dim=DIM
    )


def write(bank, tokens, seed, document=None, row=0):
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 1, HEADS, tokens, DIM, generator=generator)
    heads = bank.config.event_heads
    cut = (
        None
        if heads is None
        else [EventCut(torch.tensor([tokens]), torch.randn(1, 1, heads * DIM, generator=generator))]
    )
    ids = torch.randint(0, 90, (1, tokens), generator=generator)
    bank.write(keys, values, ids, rows=[row], documents=None if document is None else [document], events=cut)


def state(bank):
    """All that can be seen of a bank."""
    queries = torch.randn(2, HEADS, 3, DIM, generator=torch.Generator().manual_seed(0))
    if bank.config.event_heads is None:
        found = [tensor.tolist() for tensor in bank.search(queries, 4)]
    else:
        found = [bank.score_events(row, queries[row].transpose(0, 1)).tolist() for row in range(2)]
    chunks = [{name: tensor.tolist() for name, tensor in bank.chunks(row).items()} for row in range(2)]
    texts = [bank.document_text(info.id) for info in bank.documents]
    return chunks, found, bank.documents, texts, [row.next_slot for row in bank.rows]


def fill(bank):
    for seed, tokens in enumerate((7, 6, 9)):  # more than fits: the ring has wrapped around
        document = bank.add_document(f"text {seed}", text="x" * tokens)
        write(bank, tokens, seed, document)
        bank.finish_document(document)
    write(bank, 5, 9, row=1)


def change(bank):
    """What a read may do: less than the memory holds, and then more than twice that; deleting; forgetting a row."""
    document = bank.add_document("lost", text="lost")
    for seed in range(20, 26):
        write(bank, 9, seed, document)
    bank.delete_document(1)
    bank.reset([1])
    write(bank, 3, 30, row=1)


SETTINGS = [
    {},
    {"memory_size": 400},
    {"evict": "least_recent"},
    {"key_storage": next(iter(BITS)), "value_storage": next(iter(BITS))},
    {"index": "approximate"},
    {"chunk_size": 1, "event_heads": 1, "event_tokens": 3},
    {"chunk_size": 1, "event_heads": 1, "event_tokens": 3, "memory_bytes": 4000, "offload": 8},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())) or "plain")
@pytest.mark.parametrize("nested", [False, True])
def test_what_failed_is_undone(settings, nested):
    bank, same = make(**settings), make(**settings)
    fill(bank), fill(same)
    before = state(bank)
    with pytest.raises(Failed), bank.undone_on_failure():
        if nested:
            with bank.undone_on_failure():
                write(bank, 11, 40)
            with pytest.raises(Failed), bank.undone_on_failure():
                change(bank)
                raise Failed
        change(bank)
        assert state(bank) != before
        raise Failed
    assert state(bank) == before
    for each in (bank, same):  # and it goes on as if nothing had been
        write(each, 9, 50, each.add_document("next"))
    assert state(bank) == state(same)


def test_what_did_not_fail_stays():
    bank, same = make(), make()
    fill(bank), fill(same)
    with bank.undone_on_failure():
        change(bank)
    change(same)
    assert state(bank) == state(same) and not bank.rows[0].ring.marks


def test_rows_that_others_share_are_not_touched():
    bank = make()
    fill(bank)
    beams = bank.select([0, 0])
    before, of_beams = state(bank), state(beams)
    with pytest.raises(Failed), beams.undone_on_failure():
        write(beams, 9, 60)
        raise Failed
    assert state(bank) == before and state(beams) == of_beams
    write(beams, 9, 60)
    assert state(bank) == before and state(beams) != of_beams


def test_a_bank_opened_from_a_directory(tmp_path):
    bank = make()
    fill(bank)
    bank.save(tmp_path / "a.bank")
    opened = Bank.load(tmp_path / "a.bank")
    before = state(opened)
    with pytest.raises(Failed), opened.undone_on_failure():
        change(opened)
        raise Failed
    assert state(opened) == before
    opened.save(tmp_path / "a.bank")
    assert state(Bank.load(tmp_path / "a.bank")) == before


def test_after_a_save_in_between_only_what_was_added_goes(tmp_path):
    """Slots are on the disk by then: they are not given again."""
    bank = make(memory_size=400)
    fill(bank)
    kept = bank.documents
    with pytest.raises(Failed), bank.undone_on_failure():
        write(bank, 9, 70, bank.add_document("lost", text="lost"))
        bank.save(tmp_path / "a.bank")
        raise Failed
    assert bank.documents == kept
    assert [info.name for info in Bank.load(tmp_path / "a.bank").documents][-1] == "lost"
    write(bank, 9, 71, bank.add_document("next", text="next"))
    bank.save(tmp_path / "a.bank")
    assert state(Bank.load(tmp_path / "a.bank")) == state(bank)
    assert "lost" not in [info.name for info in Bank.load(tmp_path / "a.bank").documents]
