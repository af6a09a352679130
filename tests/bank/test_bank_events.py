"""Events in a bank: written with their tokens, found by their own keys, gone with them; on disk too."""

from __future__ import annotations

import pytest
import torch
from model_bank import tokens_of

from ltm.bank import Bank, BankConfig, EventCut
from ltm.errors import BankError, ConfigError

HEADS, LAYERS, HEAD_DIM = 4, 3, 8


def make(rows=1, **options):
    config = BankConfig(chunk_size=1, event_heads=HEADS, event_tokens=2, **{"memory_size": None, **options})
    return Bank(config, num_rows=rows, num_kv_heads=2, head_dim=HEAD_DIM, layers=range(LAYERS))


def write(bank, sizes, seed=0, row=0, document=None):
    """Tokens in events of these sizes; what was written."""
    count = sum(sizes)
    keys, values, ids = tokens_of(count, batch=LAYERS, seed=seed)
    found = torch.randn(LAYERS, len(sizes), HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(seed + 1))
    cut = EventCut(torch.tensor(sizes), found)
    documents = None if document is None else [document]
    bank.write(keys[:, None], values[:, None], ids[:1], rows=[row], documents=documents, events=[cut])
    return keys, values, found


def test_events_and_entries_are_what_was_written():
    bank = make()
    first, second = write(bank, [3, 2], 0), write(bank, [4], 5)
    table = bank.event_table(0)
    assert table.first.tolist() == [0, 3, 5] and table.sizes.tolist() == [3, 2, 4]
    queries = torch.randn(7, 2 * HEADS, HEAD_DIM)  # two query heads share a key
    for layer in range(LAYERS):
        keys = torch.cat((first[2][layer], second[2][layer])).view(3, HEADS, 1, HEAD_DIM).expand(-1, -1, 2, -1)
        expected = torch.einsum("qhd,ehd->qhe", queries, keys.flatten(1, 2))
        torch.testing.assert_close(bank.score_events(0, queries, layer), expected)
        whole = torch.cat((first[0][layer], second[0][layer]), dim=1)
        assert torch.equal(bank.entries(0, slice(2, 7), layer)[0], whole[:, 2:7])
        assert torch.equal(bank.entries(0, torch.tensor([8, 0, 4]), layer)[0], whole[:, [8, 0, 4]])
        assert torch.equal(bank.entries(0, slice(5, 9), layer)[1], second[1][layer])


def test_an_event_leaves_with_its_first_token():
    bank = make(memory_size=7)
    write(bank, [3, 2], 0)
    kept = write(bank, [4], 5)
    table = bank.event_table(0)  # the first two tokens left, and with them the first event; its third token stays
    assert bank.num_tokens() == 7 and table.first.tolist() == [1, 3] and table.sizes.tolist() == [2, 4]
    found = bank.score_events(0, torch.ones(1, HEADS, HEAD_DIM), 1)[0].sum(dim=0)
    torch.testing.assert_close(found[1], kept[2][1].sum())
    write(bank, [9], 6)
    assert bank.num_tokens() == 7 and len(bank.event_table(0).sizes) == 0


def test_a_budget_in_bytes_counts_events():
    probe = make()
    per_token, per_event = probe.layout.bytes_per_chunk, probe.layout.bytes_per_event
    bank = make(memory_bytes=40 * per_token + 20 * per_event)
    for seed in range(40):
        write(bank, [1, 1, 1], seed)  # shorter than event_tokens says
        assert bank.nbytes <= 40 * per_token + 20 * per_event
    assert bank.num_tokens() > 20 and len(bank.event_table(0).sizes) > 10


@pytest.mark.parametrize("mmap", [True, False])
def test_saved_appended_and_loaded(tmp_path, mmap):
    bank = make()
    gone = bank.add_document("gone")
    write(bank, [3, 2], 0, document=gone)
    write(bank, [4], 5)
    bank.save(tmp_path / "bank")
    write(bank, [2, 6], 7)
    bank.save(tmp_path / "bank")
    loaded = Bank.load(tmp_path / "bank", mmap=mmap)
    assert (loaded.mapped_nbytes > 0) == mmap
    assert_same(loaded, bank)
    loaded.delete_document(gone)
    bank.delete_document(gone)
    assert loaded.event_table(0).sizes.tolist() == [4, 2, 6]
    assert_same(loaded, bank)
    loaded.save(tmp_path / "bank")
    assert_same(Bank.load(tmp_path / "bank"), bank)


def assert_same(one, other):
    queries = torch.randn(2, HEADS, HEAD_DIM)
    assert all(torch.equal(a, b) for a, b in zip(one.event_table(0), other.event_table(0), strict=True))
    for layer in range(LAYERS):
        torch.testing.assert_close(one.score_events(0, queries, layer), other.score_events(0, queries, layer))
        for places in (torch.arange(one.num_tokens()), slice(0, one.num_tokens()), slice(2, 5)):
            for a, b in zip(one.entries(0, places, layer), other.entries(0, places, layer), strict=True):
                assert torch.equal(a, b)


def test_selected_rows_part_when_one_is_written_to():
    bank = make()
    write(bank, [3, 2])
    both = bank.select([0, 0])
    write(both, [4], 5, row=1)
    assert [both.event_table(row).sizes.tolist() for row in (0, 1)] == [[3, 2], [3, 2, 4]]
    assert bank.event_table(0).sizes.tolist() == [3, 2]


def test_offloaded_rows_are_the_same_and_lie_in_files():
    inside, outside = make(), make(offload=4)
    for bank in (inside, outside):
        write(bank, [3, 2], 0)
        write(bank, [30], 3)
    assert outside.layout.fields["keys"].offload == 4 and outside.layout.fields["token_ids"].offload is None
    assert_same(inside, outside)


def test_wrong_events_are_refused():
    bank = make()
    keys, values, ids = tokens_of(5, batch=LAYERS)
    sizes = torch.tensor([2, 2])
    with pytest.raises(BankError, match="add up to the tokens"):
        cut = EventCut(sizes, torch.zeros(LAYERS, 2, HEADS * HEAD_DIM))
        bank.write(keys[:, None], values[:, None], ids[:1], events=[cut])
    with pytest.raises(BankError, match="written to with events"):
        bank.write(keys[:, None], values[:, None], ids[:1])
    with pytest.raises(BankError, match="keeps events instead"):
        bank.search(torch.zeros(1, 2, 1, HEAD_DIM), 1)
    with pytest.raises(BankError, match="keeps no events"):
        Bank(num_rows=1, num_kv_heads=2, head_dim=HEAD_DIM).event_table(0)
    with pytest.raises(ConfigError, match="chunk_size=4 with events"):
        BankConfig(chunk_size=4, event_heads=2)
