"""One writer, several readers: processes that want the same bank at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ltm.bank import Bank
from ltm.bank.disk import loading
from ltm.bank.disk.lock import WriteLock
from ltm.errors import BankError

HOLD = """
import sys
from pathlib import Path
from ltm.bank.disk.lock import WriteLock
with WriteLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""

READ = """
import sys
from pathlib import Path
from ltm.bank import Bank
import torch
torch.set_num_threads(1)
path, seen = Path(sys.argv[1]), set()
while not (path / "done").exists():
    bank = Bank.load(path, verify=True)
    sources = bank.sources(range(bank.rows[0].first_slot, bank.rows[0].next_slot))
    tokens = [token for source in sources for token in source.token_ids]
    assert tokens == list(range(tokens[0], tokens[0] + len(tokens))), tokens
    found = bank.retrieve(torch.ones(1, 1, 1, 4), bank.num_chunks())
    assert sorted(found.keys[found.mask][:, 0].int().tolist()) == tokens
    if not seen:
        print("first", flush=True)
    seen.add(tokens[-1])
print(len(seen), flush=True)
"""


def start(script: str, path: Path) -> subprocess.Popen[str]:
    """A process of its own, once it has said its first word."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline().strip() in ("held", "first")
    return process


def counting_bank() -> Bank:
    return Bank(num_rows=1, num_kv_heads=1, head_dim=4)


def count(bank: Bank, tokens: int) -> None:
    """Write the next numbers; a token's key is its number."""
    first = bank.rows[0].next_slot * 4
    ids = torch.arange(first, first + tokens)[None]
    keys = ids[:, None, :, None].float().expand(1, 1, tokens, 4)
    bank.write(keys, keys, ids)


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path):
    path, bank = tmp_path / "a.bank", counting_bank()
    count(bank, 8)
    bank.save(path)
    holder = start(HOLD, path)
    count(bank, 8)
    with pytest.raises(BankError, match=rf"a\.bank is being written to by process {holder.pid} on .*, since 20"):
        bank.save(path)
    with pytest.raises(BankError, match="wait until it is done, or end it"), WriteLock(path):
        pass
    assert Bank.load(path).num_tokens() == 8  # readers need no lock
    holder.communicate("\n")
    bank.save(path)
    assert Bank.load(path).num_tokens() == 16 and not (path / ".writer.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_the_lock_of_a_dead_process_is_nobodys(tmp_path):
    path, bank = tmp_path / "a.bank", counting_bank()
    count(bank, 4)
    bank.save(path)
    holder = start(HOLD, path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (path / ".writer.json").exists()  # what a dead one leaves
    count(bank, 4)
    bank.save(path)
    assert Bank.load(path, verify=True).num_tokens() == 8 and not (path / ".writer.json").exists()


def test_readers_see_whole_banks_while_one_writes(tmp_path):
    path, bank = tmp_path / "a.bank", Bank(num_rows=1, num_kv_heads=1, head_dim=4)
    count(bank, 12)
    bank.save(path)
    readers = [start(READ, path) for _ in range(2)]
    for step in range(40):
        count(bank, 12)
        if step == 20:
            bank.rows[0].evict(30)
        bank.save(path, compact=step % 7 == 3)
    (path / "done").touch()
    seen = [int(reader.communicate(timeout=60)[0]) for reader in readers]
    assert [reader.returncode for reader in readers] == [0, 0] and min(seen) >= 1


def test_files_that_a_writer_replaces_before_they_are_read(tmp_path, monkeypatch):
    check_files, path = loading.check_files, tmp_path / "a.bank"
    calls = count_once_more_in(path, monkeypatch, loading, "check_files", check_files)
    assert Bank.load(path).num_tokens(0) == 24 and len(calls) == 2


def test_files_that_a_writer_replaces_before_they_are_mapped(tmp_path, monkeypatch):
    """safetensors opens a file by its name, then torch maps it, by its name again."""
    storage, path = torch.UntypedStorage, tmp_path / "a.bank"
    calls = count_once_more_in(path, monkeypatch, storage, "from_file", storage.from_file, before=True)
    assert Bank.load(path).num_tokens(0) == 24 and len(calls) > 1


def count_once_more_in(path, monkeypatch, owner, name, step, before=False):
    """A saved bank of 12 that a writer replaces by one of 24 at the first call of `step`; the list of calls."""
    bank, calls = counting_bank(), []
    count(bank, 12)
    bank.save(path)

    def replaced(*given, **named):
        result = None if before else step(*given, **named)
        calls.append(given)
        if len(calls) == 1:
            count(bank, 12)
            bank.save(path, compact=True)
        return step(*given, **named) if before else result

    monkeypatch.setattr(owner, name, replaced)
    return calls


def test_the_lock_is_of_a_process_and_counts(tmp_path):
    path, bank = tmp_path / "new" / "a.bank", counting_bank()
    with WriteLock(path):
        with WriteLock(path):
            count(bank, 4)
        bank.save(path)  # still held, by this process
        assert (path / ".writer.json").exists()
    journal = Bank.read_manifest(path).journal.file
    assert sorted(file.name for file in path.iterdir()) == [".lock", journal, "manifest.json", "shards"]


def test_a_directory_made_for_a_lock_goes_if_nothing_was_saved(tmp_path):
    with pytest.raises(RuntimeError), WriteLock(tmp_path / "new" / "a.bank"):
        raise RuntimeError("no")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(BankError, match="other files and no bank"), WriteLock(tmp_path / "mine"):
        pass
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["letter.txt"]
