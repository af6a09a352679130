"""Run by test_bank_killed.py: reads into banks in child processes that die in the middle of a save.

killed_saver.py FOLDER: FOLDER/step-N.bank dies within the N-th file operation of its second save; FOLDER/time-N.bank
is killed with SIGKILL after a while; FOLDER/resumed.bank is loaded, continued and killed several times.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ltm.bank import Bank, BankConfig
from ltm.bank.disk import files

WRITE = 12
"""Tokens between two saves."""


def tokens_from(start: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys, values and ids that tell their place."""
    ids = torch.arange(start, start + count)[None]
    keys = ids[:, None, :, None].float().expand(1, 1, count, 4)
    return keys, -keys, ids


def write_and_save(bank: Bank, path: Path, saves: int) -> None:
    if not bank.documents:
        bank.add_document("counting", text="one, two, three")
    document = bank.documents[-1].id
    for _ in range(saves):
        done = bank.rows[0].next_slot * bank.config.chunk_size
        bank.write(*tokens_from(done, WRITE), documents=[document])
        bank.save(path)


def new_bank() -> Bank:
    return Bank(BankConfig(memory_size=60), num_rows=1, num_kv_heads=1, head_dim=4)


def die_in_step(path: Path, step: int) -> None:
    """Two saves, and one in which the process is gone within its step-th file operation."""
    bank = new_bank()
    write_and_save(bank, path, saves=7)  # the oldest are evicted by now
    bank.add_document("another", text="more")
    left = [step]

    def dying(operation: Callable[..., None]) -> Callable[..., None]:
        def run(target: Path, *arguments: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                if arguments and isinstance(arguments[-1], bytes):
                    half = arguments[-1][: len(arguments[-1]) // 2]
                    operation(target, *arguments[:-1], half)
                os._exit(1)
            operation(target, *arguments)

        return run

    files.write_synced = dying(files.write_synced)
    files.append_synced = dying(files.append_synced)
    files.sync_directory = dying(files.sync_directory)
    files.os.replace = dying(os.replace)
    files.remove_plain = dying(files.remove_plain)
    write_and_save(bank, path, saves=1)
    os._exit(0)


def in_child(
    work: Callable[..., None], *arguments: object, kill_after: float | None = None, saved: Path | None = None
) -> int:
    """Run in a child process; returns its exit status. saved: a bank; the time to the kill counts from its save."""
    before = saved is not None and stamp(saved)
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
        finally:
            os._exit(99)
    if kill_after is not None:
        while saved is not None and stamp(saved) == before:
            time.sleep(0.005)
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def stamp(path: Path) -> int:
    """Another with each save; 0 before the first."""
    manifest = path / "manifest.json"
    return manifest.stat().st_mtime_ns if manifest.exists() else 0


def resume(path: Path) -> None:
    write_and_save(Bank.load(path) if Bank.exists(path) else new_bank(), path, saves=10_000)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    step, status = 0, 1
    while status:
        step += 1
        status = in_child(die_in_step, folder / f"step-{step}.bank", step)
    random.seed(0)
    for number in range(5):
        in_child(resume, folder / f"time-{number}.bank", kill_after=random.uniform(0.02, 0.2))
    for _ in range(5):
        path = folder / "resumed.bank"
        in_child(resume, path, kill_after=random.uniform(0.0, 0.1), saved=path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
