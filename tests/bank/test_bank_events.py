"""Events in a bank: written with their tokens, found by their own keys, gone with them; on disk too."""

from __future__ import annotations

import pytest
import torch
from bank.model_bank import tokens_of
from bank.resigned import read_values, shard_entries, sign_shard, write_values
from safetensors.torch import load_file, save

from ltm.bank import Bank, BankConfig, EventCut
from ltm.bank.disk import merging, plain_reader
from ltm.errors import BankCorruptError, BankError, BankMismatchError, ConfigError

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


@pytest.mark.parametrize("storage", [None, "float32", "int8", "int4"])
@pytest.mark.parametrize("mmap", [True, False])
def test_saved_appended_and_loaded(tmp_path, mmap, storage):
    bank = make(key_storage=storage, value_storage=storage)
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
    Bank.verify(tmp_path / "bank")
    assert_read_plainly(tmp_path / "bank", bank)
    loaded.save(tmp_path / "bank", compact=True)
    assert_same(Bank.load(tmp_path / "bank"), bank)


def test_entries_over_several_files(tmp_path):
    """At places in any order, at ranges within a file and across, and at none."""
    bank = make()
    for seed, sizes in enumerate(([3, 2], [4], [2, 6], [5])):
        write(bank, sizes, seed)
        bank.save(tmp_path / "bank")
    loaded = Bank.load(tmp_path / "bank")
    assert len(loaded.rows[0].mapped.blocks) == 4
    places = [slice(0, 22), slice(1, 4), slice(4, 12), slice(9, 9), torch.tensor([0, 4, 5, 8, 21])]
    places += [torch.tensor([21, 3, 3, 12, 0]), torch.zeros(0, dtype=torch.int64)]
    for layer in range(LAYERS):
        for own in places:
            for expected, found in zip(bank.entries(0, own, layer), loaded.entries(0, own, layer), strict=True):
                assert torch.equal(expected, found)


def assert_read_plainly(path, bank):
    """The reader that shares no code finds the same."""
    row = plain_reader.read_bank(path).rows[0]
    assert row.search_keys is None
    first = bank.event_table(0).first
    assert row.starts.tolist() == bank.rows[0].slots()[first].tolist()
    assert row.sizes.tolist() == bank.event_table(0).sizes.tolist()
    for layer in range(LAYERS):
        keys, values = bank.entries(0, slice(0, bank.num_tokens()), layer)
        for tensor, array in ((keys, row.keys), (values, row.values)):
            torch.testing.assert_close(tensor, torch.tensor(array[layer, :, :, 0]), atol=1e-5, rtol=1e-5)
        found = torch.tensor(row.event_keys[layer]).unflatten(1, (HEADS, HEAD_DIM)).sum(dim=(1, 2))
        scores = bank.score_events(0, torch.ones(1, HEADS, HEAD_DIM), layer)
        torch.testing.assert_close(scores.sum(dim=(0, 1)), found)


@pytest.mark.parametrize("storage", [None, "int8", "int4"])
def test_entries_in_codes_are_near_and_the_same_by_place_and_by_range(storage):
    center = torch.full((LAYERS, 2, HEAD_DIM), 3.0)
    config = BankConfig(1, None, event_heads=HEADS, key_storage=storage, value_storage=storage)
    bank = Bank(config, num_rows=1, num_kv_heads=2, head_dim=HEAD_DIM, layers=range(LAYERS), key_center=center)
    keys, values, _ = write(bank, [5, 4])
    for layer in range(LAYERS):
        by_place, by_range = bank.entries(0, torch.arange(9), layer), bank.entries(0, slice(0, 9), layer)
        for found, other, written in zip(by_place, by_range, (keys, values), strict=True):
            assert torch.equal(found, other)
            far = (found - written[layer]).abs().max()
            assert far <= {None: 0.0, "int8": 0.1, "int4": 1.5}[storage] and (storage is None) == (far == 0)


def test_merged_banks_hold_the_events_of_both(monkeypatch):
    monkeypatch.setattr(merging, "BLOCK_CHUNKS", 4)  # events reach over the ends of what is copied at a time
    one, other, expected = make(), make(memory_size=20), make()
    write(one, [2, 2], 9)
    for seed, sizes in ((1, [9, 3]), (2, [5]), (3, [7])):  # of the first event only the end is left
        write(other, sizes, seed)
    write(expected, [2, 2], 9)
    assert other.event_table(0).sizes.tolist() == [3, 5, 7]
    one.merge(other)
    table = one.event_table(0)
    assert table.sizes.tolist() == [2, 2, 3, 5, 7]
    assert (table.first[2:] - 4).tolist() == other.event_table(0).first.tolist()
    assert one.rows[0].events.lie_within(one.rows[0].slots())
    queries = torch.randn(2, HEADS, HEAD_DIM)
    joined = torch.cat((expected.score_events(0, queries, 1), other.score_events(0, queries, 1)), dim=2)
    torch.testing.assert_close(one.score_events(0, queries, 1), joined)
    theirs = other.entries(0, slice(0, 20), 2)[0]
    assert torch.equal(one.entries(0, slice(4, 24), 2)[0], theirs)


def test_banks_of_other_events_are_not_merged():
    with pytest.raises(BankMismatchError, match="event_heads: 4 and None"):
        make().merge(Bank(BankConfig(chunk_size=1), num_rows=1, num_kv_heads=2, head_dim=HEAD_DIM, layers=range(3)))


@pytest.mark.parametrize(
    "name, change",
    [
        ("starts", lambda starts: starts + 1),
        ("sizes", lambda sizes: sizes + 1),
        ("sizes", lambda sizes: sizes * 0),
        ("event_keys", lambda keys: keys[:, :-1]),
    ],
)
def test_events_that_cannot_be_are_refused(tmp_path, name, change):
    """With the right checksums all the same."""
    bank = make()
    write(bank, [3, 2])
    bank.save(tmp_path / "bank")
    assert len(Bank.load(tmp_path / "bank").event_table(0).sizes) == 2
    (shard,) = (tmp_path / "bank" / "shards").iterdir()
    tensors = load_file(shard)
    shard.write_bytes(save({**tensors, name: change(tensors[name]).contiguous()}))
    values = read_values(tmp_path / "bank")
    sign_shard(tmp_path / "bank", shard_entries(values)[0], shard.read_bytes())
    write_values(tmp_path / "bank", values)
    with pytest.raises(BankCorruptError, match="events|event_keys"):
        Bank.load(tmp_path / "bank")


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
    with pytest.raises(ConfigError, match="search_storage='int8' with events"):
        BankConfig(chunk_size=1, event_heads=2, search_storage="int8")
    with pytest.raises(ConfigError, match="evict='least_recent' with events"):
        BankConfig(chunk_size=1, event_heads=2, evict="least_recent")
    with pytest.raises(ConfigError, match="chunk_size=4 with events"):
        BankConfig(chunk_size=4, event_heads=2)
