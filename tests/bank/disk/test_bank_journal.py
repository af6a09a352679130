"""Many saves: each costs what is new, few shards are left, and what was there before the journal still opens."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from bank.model_bank import tokens_of
from bank.resigned import read_values

from ltm.bank import Bank, BankConfig
from ltm.bank.disk import journal, plain_reader, saved, saving
from ltm.bank.disk.manifest import FORMAT, checksum
from ltm.decode_json import typed
from ltm.errors import BankCorruptError


@pytest.fixture(autouse=True)
def do_not_wait_for_the_disk(monkeypatch):
    """Hundreds of saves; that a save waits is tested elsewhere."""
    monkeypatch.setattr("ltm.bank.disk.files.os.fsync", lambda handle: None)


def new_bank(size: int | None = None, **options) -> Bank:
    return Bank(BankConfig(memory_size=size, **options), num_rows=1, num_kv_heads=2, head_dim=8)


def add(bank: Bank, number: int, tokens: int = 6) -> int:
    document = bank.add_document(f"document {number}", text=f"the text of {number}")
    bank.write(*tokens_of(tokens, seed=number), documents=[document])
    bank.finish_document(document)
    return document


def assert_same(bank: Bank, path: Path) -> None:
    """What is on the disk is what the bank holds, for the plain reader too."""
    loaded, plain = Bank.load(path, verify=True), plain_reader.read_bank(path)
    assert loaded.documents == bank.documents == Bank.read_manifest(path).document_infos
    assert [d["info"]["name"] for d in plain.manifest["documents"]] == [info.name for info in bank.documents]
    mine, theirs = bank.chunks(), loaded.chunks()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert plain.rows[0].numbers.tolist() == mine["numbers"].tolist()
    assert plain.texts == {info.id: bank.document_text(info.id) for info in bank.documents}


def test_a_save_looks_at_what_is_new_alone(tmp_path, monkeypatch):
    path, bank = tmp_path / "a.bank", new_bank()
    calls = Counter()

    def counted(owner, name):
        step = getattr(owner, name)

        def count(*given, **named):
            calls[name] += 1
            return step(*given, **named)

        monkeypatch.setattr(owner, name, count)

    for number in range(20):
        add(bank, number)
        bank.save(path)
    for owner, name in ((Bank, "document_info"), (saving, "remove_orphans"), (json, "dumps"), (Path, "iterdir")):
        counted(owner, name)
    sizes = []
    for number in range(20, 70):
        before, length = dict(calls), Bank.read_manifest(path).journal.num_bytes
        add(bank, number)
        bank.save(path)
        sizes.append(Bank.read_manifest(path).journal.num_bytes - length)
        assert all(calls[name] - before.get(name, 0) <= 12 for name in calls), calls
    lines = read_values(path)["journal"]
    assert len(lines) == 70 and all(len(line["documents"]) == 1 for line in lines)
    assert sorted(sizes)[len(sizes) // 2] < 700
    assert_same(bank, path)


def test_small_shards_become_few(tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "CLASSES", (8_000, 40_000))
    path, bank = tmp_path / "a.bank", new_bank()
    most = 0
    for number in range(120):
        add(bank, number, 90 if number % 50 == 49 else 6)
        bank.save(path)
        most = max(most, len(list((path / "shards").iterdir())))
    assert most == max(most, len(Bank.read_manifest(path).shards)) < 40
    assert_same(bank, path)
    other = Bank.load(path)
    other.delete_document(7)
    other.save(path)
    assert_same(other, path)


def test_counts_of_what_is_evicted_are_kept_up_to_date(tmp_path):
    path, bank = tmp_path / "a.bank", new_bank(40)
    for number in range(60):
        add(bank, number, 5 + number % 3)
        bank.save(path)
    assert_same(bank, path)
    assert sum(info.num_tokens for info in Bank.read_manifest(path).document_infos) == bank.num_tokens()
    bank = Bank.load(path)
    add(bank, 60, 30)
    bank.save(path)
    assert_same(bank, path)


@pytest.mark.parametrize("evict", ["least_recent", "least_frequent"])
def test_other_evictions_too(tmp_path, evict):
    path, bank = tmp_path / "a.bank", new_bank(60, evict=evict)
    for number in range(40):
        add(bank, number)
        bank.retrieve(torch.randn(1, 2, 1, 8), 2)
        bank.save(path)
    assert_same(bank, path)


def test_a_journal_that_is_mostly_outdated_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SPARE_ENTRIES", 8)
    path, bank = tmp_path / "a.bank", new_bank()
    document, files = bank.add_document("diary", text="short"), set()
    for number in range(60):
        bank.write(*tokens_of(4, seed=number), documents=[document])
        bank.save(path)
        files.add(Bank.read_manifest(path).journal.file)
        assert len(read_values(path)["journal"]) <= 40
    assert len(files) > 2 and len(list(path.glob("journal-*"))) == 1
    assert_same(bank, path)


def test_a_deleted_name_is_in_no_line_of_the_journal(tmp_path):
    path, bank = tmp_path / "a.bank", new_bank()
    for number in range(3):
        add(bank, number)
        bank.save(path)
    bank.delete_document(1)
    bank.save(path)
    (left,) = path.glob("journal-*")
    assert b"document 1" not in left.read_bytes() and b"document 2" in left.read_bytes()
    assert_same(bank, path)


def test_what_a_killed_save_left_behind_the_journal_is_passed_over_and_goes(tmp_path):
    path, bank = tmp_path / "a.bank", new_bank()
    add(bank, 0)
    bank.save(path)
    (file,) = path.glob("journal-*")
    with open(file, "ab") as out:
        out.write(b'{"documents":[{"info":{"id":1,"name":"the trea')
    assert_same(bank, path)
    add(bank, 1)
    bank.save(path)
    assert b"the trea" not in file.read_bytes()
    assert_same(bank, path)


def test_a_journal_that_is_gone_is_written_anew_by_who_knows_it(tmp_path):
    path, bank = tmp_path / "a.bank", new_bank()
    for number in range(3):
        add(bank, number)
        bank.save(path)
    Path(path, Bank.read_manifest(path).journal.file).unlink()
    with pytest.raises(BankCorruptError, match=r"journal-.*jsonl is damaged: it is missing"):
        Bank.load(path)
    bank.save(path)
    assert_same(bank, path)


def test_a_reader_that_comes_between_two_manifests_reads_again(tmp_path, monkeypatch):
    path, bank = tmp_path / "a.bank", new_bank()
    add(bank, 0)
    bank.save(path)
    step, calls = journal.replay, []

    def late(*given):
        calls.append(given)
        if len(calls) == 1:
            bank.delete_document(0)
            bank.save(path)
            raise ValueError("gone")
        return step(*given)

    monkeypatch.setattr("ltm.bank.disk.manifest_file.replay", late)
    assert Bank.read_manifest(path).documents == [] and len(calls) == 2


def test_banks_of_version_2_open_and_go_on(tmp_path):
    path, bank = tmp_path / "a.bank", new_bank()
    for number in range(3):
        add(bank, number)
        bank.save(path)
    to_version_2(path)
    loaded = Bank.load(path, verify=True)
    assert loaded.documents == bank.documents and Bank.read_manifest(path).method is None
    assert sorted(plain_reader.read_bank(path).texts) == [0, 1, 2]
    add(loaded, 3)
    loaded.save(path)
    assert json.loads((path / "manifest.json").read_text())["version"] == 3
    assert_same(loaded, path)


def to_version_2(path: Path) -> None:
    """The manifest as it was before there was a journal."""
    manifest = Bank.read_manifest(path)
    values = read_values(path)["manifest"]
    (path / values.pop("journal")["file"]).unlink()
    del values["method"]
    values |= {"version": 2, "documents": [asdict(d) for d in manifest.documents]}
    values["shards"] = [asdict(shard) for shard in manifest.shards]
    assert values["format"] == FORMAT
    (path / "manifest.json").write_text(json.dumps({**values, "checksum": checksum(values)}))


def test_names_and_counts_are_found_without_a_look_at_the_others():
    bank = new_bank()
    for number in range(5):
        add(bank, number % 3)
    assert [info.id for info in bank.documents_named("document 1")] == [1, 4]
    bank.delete_document(1)
    assert [info.id for info in bank.documents_named("document 1")] == [4]
    assert bank.documents_named("nothing") == [] and bank.document_info(4) == bank.documents[-1]
    assert bank.document_info(4).num_tokens == 6 and bank.document_info(4).num_chunks == 2


def test_where_a_value_has_the_wrong_type():
    record = {"documents": [], "shards": [], "dropped": ["a", 3]}
    with pytest.raises(ValueError, match=r"^line 1\.dropped\[1\] is not a text$"):
        typed(journal.Record, record, "line 1")
    with pytest.raises(ValueError, match="line 1 has other fields than it should: other"):
        typed(journal.Record, {**record, "other": 1}, "line 1")
