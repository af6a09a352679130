"""A process that dies at any moment of a save leaves a bank that loads with the last complete state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bank.disk.killed_saver import WRITE, tokens_from

from ltm.bank import Bank
from ltm.bank.disk.files import remove_orphans


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if sys.platform == "win32":
        pytest.skip("needs fork and SIGKILL")
    path = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("killed_saver.py")
    subprocess.run([sys.executable, str(script), str(path)], check=True, timeout=300)
    return path


def check(path: Path) -> int:
    """The bank holds the last tokens up to some save, each with its own keys; returns how many were read."""
    bank = Bank.load(path, verify=True)
    read = bank.rows[0].next_slot * 4
    assert read and read % WRITE == 0 and bank.num_tokens() == min(read, 60)
    slots = range(bank.rows[0].first_slot, bank.rows[0].next_slot)
    ids = [token for source in bank.sources(slots) for token in source.token_ids]
    assert ids == list(range(read - bank.num_tokens(), read))
    found = bank.retrieve(torch.ones(1, 1, 1, 4), 15)
    expected = tokens_from(read - 4, 4)[0]
    assert torch.equal(found.keys[:, :, 0, :4], expected) and torch.equal(found.values, -found.keys)
    assert bank.document_text(0) == "one, two, three"
    return read


def test_dying_in_any_step_of_a_save(folder):
    steps = sorted(folder.glob("step-*.bank"))
    read = [check(path) for path in steps]
    assert set(read) == {7 * WRITE, 8 * WRITE} and len(steps) > 8  # some died before the manifest, some after
    assert any(len(list(path.rglob("*"))) > files_of(path) for path in steps)  # leftovers are there, and do no harm


def files_of(path: Path) -> int:
    """Files that the manifest names, the manifest, its journal, the lock, and the two directories."""
    return len(Bank.read_manifest(path).files) + 5


def test_leftovers_go_with_the_next_save(folder):
    for path in sorted(folder.glob("step-*.bank")):
        bank = Bank.load(path)
        bank.save(path)
        assert len(list(path.rglob("*"))) == files_of(path)
        manifest = Bank.read_manifest(path)
        remove_orphans(path, {manifest.journal.file, *(file.file for file in manifest.files)})
        check(path)


def test_kill_at_random_moments(folder):
    alive = [path for path in sorted(folder.glob("time-*.bank")) if Bank.exists(path)]
    assert all(check(path) for path in alive)
    for path in set(folder.glob("time-*.bank")) - set(alive):  # killed in the first save: the next one takes the place
        bank = Bank(num_rows=1, num_kv_heads=1, head_dim=4)
        bank.save(path)
        assert Bank.load(path).num_tokens() == 0


def test_a_read_goes_on_after_each_kill(folder):
    assert check(folder / "resumed.bank") > 0
    assert len(Bank.load(folder / "resumed.bank").documents) == 1
