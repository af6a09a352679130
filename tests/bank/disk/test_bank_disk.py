"""Saving and loading: equality, appended shards, evictions and deletions between saves, refusals, full disks."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from bank.model_bank import tokens_of

from ltm.backbone.fingerprint import Fingerprint
from ltm.bank import Bank, BankConfig
from ltm.bank.disk import files, saving
from ltm.bank.disk.prefetch import HEADER_BYTES, read_ahead
from ltm.errors import BankCorruptError, BankError, BankMismatchError

FINGERPRINT = Fingerprint("Llama", "ab" * 32, None, 4, 4, 2, 8, 32, 1000, "float32", "null")


@pytest.fixture
def bank():
    """Two documents, one anonymous write, evictions."""
    bank = Bank(
        BankConfig(memory_size=60), num_rows=2, num_kv_heads=2, head_dim=8, layers=(3,), fingerprint=FINGERPRINT
    )
    one = bank.add_document("one", row=0, text="Call me Ishmael.\r\n\ud800 Ünïcode")
    two = bank.add_document("two", row=1)
    spans = torch.arange(80).view(1, 40, 2)
    bank.write(*tokens_of(40), rows=[0], documents=[one], spans=spans)
    bank.write(*tokens_of(40, seed=1), rows=[0])
    bank.write(*tokens_of(7, seed=2), rows=[1], documents=[two])
    bank.finish_document(one)
    bank.extra["method"] = {"name": "longmem", "sizes": [1, 2]}
    bank.backbone = "tiny-llama"
    return bank


def assert_same(one: Bank, two: Bank) -> None:
    """Everything a user can ask gives the same answer."""
    assert one.documents == two.documents and one.config == two.config and one.layers == two.layers
    assert (one.extra, one.backbone, one.dtype) == (two.extra, two.backbone, two.dtype)
    assert [one.document_text(d.id) for d in one.documents] == [two.document_text(d.id) for d in two.documents]
    query = torch.randn(1, 2 * one.num_kv_heads, 3, one.head_dim, generator=torch.Generator().manual_seed(3))
    for row in range(one.num_rows):
        assert one.num_tokens(row) == two.num_tokens(row)
        found, other = one.retrieve(query, 16, rows=[row]), two.retrieve(query, 16, rows=[row])
        assert torch.equal(found.hits.slots, other.hits.slots) and torch.equal(found.mask, other.mask)
        assert torch.equal(found.keys[found.mask], other.keys[other.mask])
        assert torch.equal(found.values[found.mask], other.values[other.mask])
        slots = found.hits.slots[found.hits.valid].unique()
        assert one.sources(slots, row) == two.sources(slots, row)


def listing(path: Path) -> dict[str, bytes]:
    """The bank's files; the lock, always empty, is none of them."""
    files = {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    assert files.pop(".lock", b"") == b"" and ".writer.json" not in files
    return files


def journal_of(path: Path) -> str:
    """Its name."""
    return Bank.read_manifest(path).journal.file


@pytest.mark.parametrize("mmap", [True, False])
def test_a_loaded_bank_is_the_one_saved(bank, tmp_path, mmap):
    bank.save(tmp_path / "a.bank")
    loaded = Bank.load(tmp_path / "a.bank", mmap=mmap)
    assert bank.retrieve(torch.randn(1, 2, 1, 8), 4, rows=[0]).mask.all()
    assert_same(bank, loaded)
    assert loaded.uuid == bank.uuid and loaded.fingerprint == FINGERPRINT
    assert (loaded.mapped_nbytes > 0) == mmap
    for one in (bank, loaded):
        one.write(*tokens_of(9, seed=5), rows=[0])
    assert_same(bank, loaded)
    assert loaded.add_document("three") == bank.add_document("three") == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_and_several_layers(tmp_path, dtype):
    bank = Bank(BankConfig(3, None), num_rows=1, num_kv_heads=1, head_dim=4, layers=(1, 2), dtype=dtype)
    keys, values, ids = tokens_of(20, batch=2, kv_heads=1, head_dim=4)
    bank.write(keys[:, None], values[:, None], ids[:1])
    bank.save(tmp_path / "a.bank")
    loaded = Bank.load(tmp_path / "a.bank")
    assert_same(bank, loaded)
    query = torch.randn(1, 2, 1, 4)
    assert torch.equal(bank.retrieve(query, 3, layer=1).values, loaded.retrieve(query, 3, layer=1).values)


def test_saving_again_writes_only_what_is_new(bank, tmp_path):
    path = tmp_path / "a.bank"
    bank.save(path)
    for seed in range(3):
        before = listing(path)
        bank.write(*tokens_of(9, seed=seed + 5), rows=[1])
        bank.save(path)
        after = listing(path)
        new = set(after) - set(before)
        assert len(new) == 1 and all(
            after[name].startswith(before[name]) for name in set(before) & set(after) - {"manifest.json"}
        )
        assert_same(bank, Bank.load(path))
    assert len(Bank.read_manifest(path).shards) == 5
    loaded = Bank.load(path)  # and so does a bank that was loaded
    loaded.write(*tokens_of(4), rows=[1])
    before = listing(path)
    loaded.save(path)
    assert len(set(listing(path)) - set(before)) == 1
    assert_same(loaded, Bank.load(path))


def test_gathering_over_several_files(tmp_path):
    bank = Bank(BankConfig(memory_size=100), num_rows=1, num_kv_heads=2, head_dim=8)
    for seed in range(9):
        bank.write(*tokens_of(14, seed=seed))
        bank.save(tmp_path / "a.bank")
    loaded = Bank.load(tmp_path / "a.bank")
    assert len(loaded.rows[0].mapped.blocks) > 5
    assert_same(bank, loaded)
    query = torch.randn(1, 2, 1, 8)
    one, two = bank.retrieve(query, 30), loaded.retrieve(query, 30)
    assert torch.equal(one.keys[one.mask], two.keys[two.mask]) and two.keys.isfinite().all()
    loaded.save(tmp_path / "b.bank")  # from one set of mapped files to another
    assert_same(bank, Bank.load(tmp_path / "b.bank"))


def test_large_writes_are_cut_into_shards(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SHARD_BYTES", 3 * bank.layout.bytes_per_chunk)
    bank.save(tmp_path / "a.bank")
    shards = Bank.read_manifest(tmp_path / "a.bank").shards
    assert [shard.num_chunks for shard in shards if shard.row == 0] == [3, 3, 3, 3, 3]
    assert_same(bank, Bank.load(tmp_path / "a.bank"))


def test_evicted_shards_are_dropped_when_nothing_of_them_is_left(bank, tmp_path):
    path = tmp_path / "a.bank"
    bank.save(path)
    (old,) = (shard for shard in Bank.read_manifest(path).shards if shard.row == 0)
    bank.write(*tokens_of(40, seed=5), rows=[0])
    bank.save(path)
    assert old in Bank.read_manifest(path).shards
    assert_same(bank, Bank.load(path))
    bank.write(*tokens_of(40, seed=6), rows=[0])
    bank.save(path)
    assert old not in Bank.read_manifest(path).shards and not (path / old.file).exists()
    assert_same(bank, Bank.load(path))


def test_deletion_reaches_the_disk_with_the_next_save(tmp_path):
    path = tmp_path / "a.bank"
    bank = Bank(BankConfig(memory_size=40), num_rows=1, num_kv_heads=1, head_dim=4)
    ids = [bank.add_document(name, text=f"The text of {name}.") for name in ("kept", "secret")]
    marks = {0: 12345.0, 1: 54321.0}
    for number in (0, 1, 0, 1, 0):
        keys, values, tokens = tokens_of(8, kv_heads=1, head_dim=4)
        bank.write(keys, values.fill_(marks[number]), tokens, documents=[ids[number]])
        if number:
            bank.save(path)
    bank.save(path)
    secret = torch.tensor([marks[1]]).view(torch.uint8).numpy().tobytes() * 2
    assert any(secret in content for content in listing(path).values())
    (untouched,) = (shard for shard in Bank.read_manifest(path).shards if shard.documents == [0])
    bank.delete_document(ids[1])
    bank.save(path)
    after = listing(path)
    assert not any(secret in content or b"secret" in content for content in after.values())
    assert untouched in Bank.read_manifest(path).shards
    loaded = Bank.load(path)
    assert_same(bank, loaded)
    assert loaded.num_tokens() == 24 and [info.name for info in loaded.documents] == ["kept"]
    bank.reset()
    bank.save(path)
    assert list(listing(path)) == [journal_of(path), "manifest.json"] and Bank.load(path).num_tokens() == 0


def test_what_was_evicted_in_part_and_then_deleted_goes_too(tmp_path):
    path = tmp_path / "a.bank"
    bank = Bank(BankConfig(memory_size=16), num_rows=1, num_kv_heads=1, head_dim=4)
    document = bank.add_document("old")
    bank.write(*tokens_of(8, kv_heads=1, head_dim=4), documents=[document])
    bank.write(*tokens_of(4, kv_heads=1, head_dim=4, seed=1))
    bank.save(path)
    bank.write(*tokens_of(12, kv_heads=1, head_dim=4, seed=2))  # of "old" nothing is left in memory
    assert bank.documents[0].num_tokens == 0
    bank.delete_document(document)
    bank.save(path)
    assert all(document not in shard.documents for shard in Bank.read_manifest(path).shards)
    assert_same(bank, Bank.load(path))


def test_the_manifest_alone_tells_what_is_there(bank, tmp_path):
    bank.save(tmp_path / "a.bank")
    manifest = Bank.read_manifest(tmp_path / "a.bank")
    assert manifest.document_infos == bank.documents and manifest.config == bank.config
    assert (manifest.num_tokens, manifest.num_chunks) == (67, 17)
    assert (manifest.backbone, manifest.fingerprint, manifest.extra) == ("tiny-llama", FINGERPRINT, bank.extra)
    files = listing(tmp_path / "a.bank")
    assert manifest.num_bytes + manifest.journal.num_bytes == sum(map(len, files.values())) - len(
        files["manifest.json"]
    )


def test_a_bank_of_another_model_is_refused(bank, tmp_path):
    bank.save(tmp_path / "a.bank")
    assert Bank.load(tmp_path / "a.bank", fingerprint=FINGERPRINT).num_tokens() == 60
    other = Fingerprint.from_dict({**FINGERPRINT.to_dict(), "dtype": "bfloat16", "num_layers": 5})
    with pytest.raises(
        BankMismatchError, match=r"num_layers: bank 4, backbone 5; dtype: bank float32, backbone bfloat16"
    ):
        Bank.load(tmp_path / "a.bank", fingerprint=other)
    plain = Bank(num_rows=1, num_kv_heads=1, head_dim=4)
    plain.save(tmp_path / "b.bank")
    assert Bank.load(tmp_path / "b.bank", fingerprint=other).fingerprint is None


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage, by_size",
    [(lambda c: c[:-1], True), (lambda c: c + b" ", True), (lambda c: b"", True), (flipped, False)],
    ids=["truncated", "longer", "empty", "edited"],
)
def test_damaged_files_are_refused_by_name(bank, tmp_path, damage, by_size):
    bank.save(tmp_path / "whole.bank")
    names = listing(tmp_path / "whole.bank")
    assert len(names) == 5
    for number, (name, content) in enumerate(names.items()):
        path = tmp_path / f"{number}.bank"
        shutil.copytree(tmp_path / "whole.bank", path)
        (path / name).write_bytes(damage(content))
        if name.endswith(("manifest.json", ".jsonl")) and damage(content) == content + b" ":
            continue  # still the same JSON
        for opening in (Bank.load, Bank.verify):
            with pytest.raises(BankError, match=Path(name).name) as error:
                opening(path)
            assert "\n" not in str(error.value) and "damaged" in str(error.value)
            assert isinstance(error.value, BankCorruptError)
        if by_size and name != "manifest.json":
            with pytest.raises(BankCorruptError, match="bytes instead of"):
                Bank.load(path, verify=False)
    assert Bank.verify(tmp_path / "whole.bank").num_tokens == 67


def test_a_missing_file_and_later_formats(bank, tmp_path):
    path = tmp_path / "a.bank"
    bank.save(path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / Bank.read_manifest(path).shards[0].file).unlink()
    with pytest.raises(BankCorruptError, match="is missing"):
        Bank.load(path)
    for version, way_out in ((manifest["version"] + 1, "upgrade ltm"), (1, "read the texts again")):
        (path / "manifest.json").write_text(json.dumps({**manifest, "version": version}))
        with pytest.raises(BankError, match=way_out):
            Bank.load(path)


def test_large_banks_are_checked_by_size_unless_asked(bank, tmp_path, monkeypatch):
    path = tmp_path / "a.bank"
    bank.save(path)
    shard = path / Bank.read_manifest(path).shards[0].file
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")  # a token id's highest byte
    with pytest.raises(BankCorruptError, match="its content is not what was written"):
        Bank.load(path)
    shard.write_bytes(shard.read_bytes()[:-4] + b"\x01\0\0\0")  # another token
    monkeypatch.setattr("ltm.bank.disk.loading.VERIFY_BYTES", 100)
    assert Bank.load(path).num_tokens() == 60
    with pytest.raises(BankCorruptError, match="its content is not what was written"):
        Bank.load(path, verify=True)


def test_only_its_own_bank_is_saved_over(bank, tmp_path):
    path, other = tmp_path / "a.bank", Bank(num_rows=1, num_kv_heads=1, head_dim=4)
    bank.save(path)
    with pytest.raises(BankError, match="holds another bank"):
        other.save(path)
    with pytest.raises(BankError, match="holds another bank"):
        bank.select([0]).save(path)
    loaded = Bank.load(path)
    loaded.write(*tokens_of(4), rows=[1])
    loaded.save(path)
    with pytest.raises(BankError, match="changed by another process"):
        bank.save(path)
    assert_same(loaded, Bank.load(path))
    bank.save(path, overwrite=True)
    assert_same(bank, Bank.load(path))
    other.save(path, overwrite=True)
    assert Bank.load(path).uuid == other.uuid and list(listing(path)) == [journal_of(path), "manifest.json"]
    (path / "manifest.json").write_text("damaged")
    other.save(path, overwrite=True)
    bank.save(tmp_path / "b.bank")  # a copy elsewhere, and both go on
    bank.save(tmp_path / "b.bank")


def test_what_is_no_bank_is_left_alone(bank, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BankError, match="is a file"):
        bank.save(tmp_path / "file")
    (tmp_path / "folder" / "shards").mkdir(parents=True)
    (tmp_path / "folder" / "shards" / "mine.safetensors").write_text("mine")
    with pytest.raises(BankError, match="a directory with other files"):
        bank.save(tmp_path / "folder")
    assert listing(tmp_path) == {"file": b"mine", "folder/shards/mine.safetensors": b"mine"}
    (tmp_path / "empty").mkdir()
    bank.save(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    bank.write(*tokens_of(4), rows=[0])
    bank.save(tmp_path / "empty")
    assert (tmp_path / "empty" / "notes.txt").read_text() == "mine"


def test_extra_must_be_plain(bank, tmp_path):
    bank.extra["tensor"] = torch.zeros(1)
    with pytest.raises(BankError, match="bank.extra cannot be saved as JSON"):
        bank.save(tmp_path / "a.bank")
    assert not (tmp_path / "a.bank").exists()


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5])
def test_a_full_disk_leaves_nothing_half_written(bank, tmp_path, monkeypatch, fails_at):
    path, new = tmp_path / "a.bank", tmp_path / "folder" / "new.bank"
    bank.save(path)
    before, saved = listing(path), Bank.load(path)
    bank.write(*tokens_of(30, batch=2, seed=8))
    bank.add_document("three", text="more")
    write, append, calls = files.write_synced, files.append_synced, []

    def full_disk(*arguments):
        *where, content = arguments
        calls.append(where)
        step = write if len(where) == 2 else append
        if len(calls) == fails_at:
            step(*where, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        step(*where, content)

    monkeypatch.setattr(files, "write_synced", full_disk)
    monkeypatch.setattr(files, "append_synced", full_disk)
    with pytest.raises(
        BankError, match=r"a\.bank: No space left on device; the bank there is still what was saved last"
    ):
        bank.save(path)
    assert len(calls) == fails_at and listing(path) == before
    assert_same(saved, Bank.load(path))
    calls.clear()
    with pytest.raises(BankError, match="nothing was left there"):
        bank.save(new)
    assert not new.parent.exists()
    bank.save(path)  # there is room again
    assert_same(bank, Bank.load(path))


def test_too_little_memory_is_told_as_such(bank, tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise RuntimeError("unable to mmap: Cannot allocate memory")

    bank.save(tmp_path / "a.bank")
    monkeypatch.setattr("ltm.bank.disk.loading.safe_open", refuse)
    with pytest.raises(BankError, match="cannot be mapped into memory: .*; give the process more") as error:
        Bank.load(tmp_path / "a.bank")
    assert not isinstance(error.value, BankCorruptError)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no hints")
def test_what_opening_reads_is_asked_for_at_once(bank, tmp_path, monkeypatch):
    bank.save(tmp_path / "bank")
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, start, size, advice: asked.append((start, size)))
    Bank.load(tmp_path / "bank")
    shards = list((tmp_path / "bank" / "shards").iterdir())
    wanted = [(0, HEADER_BYTES)] * len(shards)
    for shard in shards:
        size = int.from_bytes(shard.read_bytes()[:8], "little")
        header = json.loads(shard.read_bytes()[8 : 8 + size])
        for name in bank.layout.all_fields:
            begin, end = header[name]["data_offsets"]
            wanted.append((8 + size + begin, 1 if name in ("keys", "values") else end - begin))
    assert sorted(asked) == sorted(wanted)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no hints")
def test_reading_ahead_leaves_complaints_to_the_reader(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, start, size, advice: asked.append((start, size)))
    torn, empty = tmp_path / "torn", tmp_path / "empty"
    torn.write_bytes(b"\xff" * 100)
    empty.write_bytes(b"")
    (tmp_path / "other").write_bytes((7).to_bytes(8, "little") + b'{"a":1}')
    read_ahead(tmp_path, ["torn", "empty", "other", "missing"], {"keys"})
    assert asked == [(0, HEADER_BYTES)] * 3


def test_a_bank_of_no_layers_keeps_token_ids(tmp_path):
    bank = Bank(BankConfig(1, 20), num_rows=1, num_kv_heads=2, head_dim=8, layers=())
    document, ids = bank.add_document("one", text="one"), torch.arange(30)[None]
    nothing = torch.empty(0, 1, 2, 15, 8)
    bank.write(nothing, nothing, ids[:, :15], documents=[document])
    bank.write(nothing, nothing, ids[:, 15:])
    bank.save(tmp_path / "a.bank")
    Bank.verify(tmp_path / "a.bank")
    loaded = Bank.load(tmp_path / "a.bank")
    assert loaded.layers == () and loaded.latest_tokens(0, 20).tolist() == list(range(10, 30))
    assert loaded.nbytes <= 20 * 28
    other = loaded.empty_like()
    other.merge(loaded)
    loaded.delete_document(document)
    assert loaded.latest_tokens(0, 20).tolist() == list(range(15, 30))
    assert other.latest_tokens(0, 20).tolist() == list(range(10, 30))
    with pytest.raises(BankError, match="layer=0 is not a place among the 0 layers"):
        loaded.search(torch.randn(1, 2, 1, 8), 1)
