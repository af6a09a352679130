"""A bank from elsewhere: links, pipes, devices and directories in it are refused, and nothing outside it is touched."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from bank.model_bank import tokens_of

from ltm.bank import Bank, BankConfig
from ltm.bank.disk import plain_reader
from ltm.bank.disk.lock import WriteLock, describe_holder
from ltm.errors import BankError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes")


@pytest.fixture
def path(tmp_path) -> Path:
    """A bank of two documents, of which one can be deleted."""
    path = tmp_path / "a.bank"
    bank = Bank(BankConfig(memory_size=60), num_rows=1, num_kv_heads=2, head_dim=8)
    for name in ("one", "two"):
        document = bank.add_document(name, text=f"the text of {name}")
        bank.write(*tokens_of(8), documents=[document])
        bank.save(path)
    return path


@pytest.fixture
def mine(tmp_path) -> Path:
    """A file of the user's."""
    file = tmp_path / "mine.txt"
    file.write_text("mine")
    return file


def delete(path: Path) -> None:
    bank = Bank.load(path)
    bank.delete_document(0)
    bank.save(path)


def parts(path: Path) -> dict[str, Path]:
    """A file of each kind."""
    manifest = Bank.read_manifest(path)
    text = manifest.documents[0].text.file
    names = {"shard": manifest.shards[0].file, "text": text, "journal": manifest.journal.file}
    return {kind: path / name for kind, name in names.items()} | {"manifest": path / "manifest.json"}


def put_link(file: Path) -> None:
    elsewhere = file.parent.parent / f"copy of {file.name}"
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)


def put_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def put_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def put_device(file: Path) -> None:
    """One that never ends; a link where this user may not make devices."""
    file.unlink()
    try:
        os.mknod(file, 0o644 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        file.symlink_to("/dev/zero")


def refused(path: Path) -> str:
    """The line with which every way to open a bank refuses it."""
    lines = []
    for opening in (Bank.load, Bank.verify, delete, lambda path: Bank.find_text(path, "text of")):
        with pytest.raises(BankError) as error:
            opening(path)
        lines.append(str(error.value))
    with pytest.raises((ValueError, OSError)):
        plain_reader.read_bank(path)
    assert all("\n" not in line and "not a plain file" in line for line in lines), lines
    return lines[0]


@pytest.mark.parametrize("kind", ["manifest", "journal", "shard", "text"])
@pytest.mark.parametrize("put", [put_link, put_pipe, put_folder, put_device])
def test_what_is_no_plain_file_is_refused(path, kind, put):
    file = parts(path)[kind]
    put(file)
    assert file.name in refused(path)


@pytest.mark.parametrize("folder", ["shards", "documents"])
def test_a_folder_that_leads_elsewhere_is_not_entered(path, tmp_path, folder):
    put_link(path / folder)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for opening in (Bank.load, delete, lambda path: Bank.find_text(path, "text of")):
        with pytest.raises(BankError, match=f"{folder}.*it is a link, not a directory"):
            opening(path)
    with pytest.raises(ValueError, match="link"):
        plain_reader.read_bank(path)
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.name != ".lock"}
    assert after == {file: content for file, content in before.items() if file.name != ".lock"}
    new = Bank(BankConfig(memory_size=60), num_rows=1, num_kv_heads=2, head_dim=8)
    new.add_document("new", text="new")
    new.write(*tokens_of(8))
    with pytest.raises(BankError, match="it is a link, not a directory"):
        new.save(path, overwrite=True)
    assert all(file.read_bytes() == content for file, content in after.items())


def test_the_note_of_who_writes_never_overwrites_another_file(path, mine):
    (path / ".writer.json").symlink_to(mine)
    assert describe_holder(path) == "another process"
    delete(path)
    assert mine.read_text() == "mine" and not os.path.lexists(path / ".writer.json")
    os.mkfifo(path / ".writer.json")
    assert describe_holder(path) == "another process"
    with WriteLock(path):
        assert (path / ".writer.json").is_file()
    assert not os.path.lexists(path / ".writer.json")


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_the_lock_is_never_another_file(path, mine, link):
    (path / ".lock").unlink()
    getattr(path / ".lock", link)(mine)
    with pytest.raises(BankError, match=r"\.lock is not a bank's lock: it is (a link|not empty).*; remove it"):
        delete(path)
    assert mine.read_text() == "mine"
    (path / ".lock").unlink()
    os.mkfifo(path / ".lock")
    with pytest.raises(BankError, match="is not a bank's lock: it is a pipe"):
        delete(path)
    (path / ".lock").unlink()
    delete(path)


def test_a_journal_with_two_names_is_not_written_into(path, tmp_path):
    """A copy made of hard links keeps its own."""
    copy = tmp_path / "copy.bank"
    shutil.copytree(path, copy, copy_function=os.link)
    bank = Bank.load(path)
    bank.write(*tokens_of(8))
    bank.save(path)
    assert Bank.load(copy).num_tokens() == 16 and Bank.load(path).num_tokens() == 24
    other = Bank.load(copy)
    other.write(*tokens_of(4))
    other.save(copy)
    assert Bank.load(copy).num_tokens() == 20 and Bank.load(path).num_tokens() == 24


def test_leftovers_that_are_links_go_and_what_they_lead_to_stays(path, mine, tmp_path):
    (path / "documents" / "7-0a1b2c3d.txt").symlink_to(mine)
    (path / "shards" / "0-1-2-0a1b2c3d.safetensors").symlink_to(tmp_path)
    delete(path)
    assert mine.read_text() == "mine" and tmp_path.is_dir()
    assert not any(file.is_symlink() for file in path.rglob("*"))


def test_the_bank_itself_may_be_a_link(path, tmp_path):
    (tmp_path / "short").symlink_to(path)
    delete(tmp_path / "short")
    assert [info.name for info in Bank.load(path).documents] == ["two"]
