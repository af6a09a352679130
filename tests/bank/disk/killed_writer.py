"""Run by test_bank_crash.py: writers that are killed at random moments, the bank looked at after each.

killed_writer.py FOLDER KILLS [STORAGE]: KILLS times, a child process goes on with FOLDER/a.bank (writes, deletes,
compacts, saves), noting in FOLDER/log what it is about to save, and is killed with SIGKILL. Then the bank must be the
last one noted or the one before: what was complete, all of it, and nothing else. Exits with an error otherwise.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from ltm.bank import Bank, BankConfig


def new_bank(storage: str | None) -> Bank:
    config = BankConfig(4, 200, None, storage, storage, "derived" if storage else None, index="exact")
    return Bank(config, num_rows=2, num_kv_heads=1, head_dim=4)


def state_of(bank: Bank) -> str:
    """A digest of all that the bank holds."""
    digest = hashlib.sha256(repr(bank.documents).encode())
    for document in bank.documents:
        digest.update(repr(bank.document_text(document.id)).encode())
    for row in bank.rows:
        digest.update(str(row.next_slot).encode())
        for name, tensor in sorted(row.chunks(0, row.num_chunks).items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def change(bank: Bank, step: int) -> None:
    """One random step of a life."""
    generator = torch.Generator().manual_seed(step)
    row, count = step % 2, 1 + step % 13
    if step % 5 == 4 and bank.documents:
        bank.delete_document(bank.documents[step % len(bank.documents)].id)
    else:
        document = bank.add_document(f"document {step}", row=row, text=f"text {step} " * (step % 7))
        keys, values = torch.randn(2, 1, 1, count, 4, generator=generator)
        bank.write(keys, values, torch.full((1, count), step), rows=[row], documents=[document])
        bank.finish_document(document)


def live(path: Path, log: Path, storage: str | None, tell: int) -> None:
    """Go on until killed; a byte to `tell` when a save begins."""
    bank = Bank.load(path, verify=True) if Bank.exists(path) else new_bank(storage)
    step = bank.document_registry.next_id + random.randrange(1000)
    with open(log, "a") as notes:
        while True:
            change(bank, step)
            notes.write(state_of(bank) + "\n")
            notes.flush()
            os.write(tell, b"x")
            bank.save(path, compact=step % 11 == 0)
            step += 1


def check(path: Path, log: Path, before: str | None) -> str | None:
    """The bank is one of the two that it may be; returns its state, None where there is none. before: that in which
    the killed writer found it."""
    noted = [before, *log.read_text().splitlines()]
    found = state_of(Bank.load(path, verify=True)) if Bank.exists(path) else None
    assert found in noted[-2:], "the bank is none that was saved last"
    return found


def main(folder: Path, kills: int, storage: str | None) -> None:
    torch.set_num_threads(1)
    random.seed(0)
    path, log, state, saves = folder / "a.bank", folder / "log", None, 0
    for number in range(kills):
        ready, tell = os.pipe()
        log.write_text("")
        child = os.fork()
        if child == 0:
            random.seed(number)
            try:
                live(path, log, storage, tell)
            finally:
                os._exit(99)
        for _ in range(random.randint(1, 3)):
            os.read(ready, 1)
        time.sleep(random.uniform(0.0, 0.04))  # a save takes about as long
        os.kill(child, signal.SIGKILL)
        os.close(ready)
        os.close(tell)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), f"the writer ended by itself at kill {number}"
        state = check(path, log, state)
        saves += len(log.read_text().splitlines())
        print(f"{number + 1} {saves}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
