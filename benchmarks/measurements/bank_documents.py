"""What a document and an append cost a bank that has many already, saved to disk after each one.

    python benchmarks/measurements/bank_documents.py --folder SCRATCH

Documents: a session of LongMem on tiny-llama (whose own part is small) reads so many short texts, each saved when it is
read. Appends: keys and values of the sizes of SmolLM2's memory layer are written to one document, and saved, so many
times. Seconds are of the wall, most of which is waiting for the disk (a save waits for seven writes), and of the
process alone. At the end each bank is opened. Writes benchmarks/results/bank_documents.json.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import machine, notice, print_table, write_result

from ltm.backbone import load_backbone
from ltm.bank import Bank, BankConfig
from ltm.methods import create_method
from ltm.text.session import Session

TEXT = "Document {number}: the harpooneer of boat {number} saw a whale near island {other}, and wrote it down at once. "
APPENDED = 16
"""Tokens of an append."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the banks are made, and removed")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=250, help="documents, or appends, that are taken together")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for name, make in (("documents", documents), ("appends", appends)):
        path = arguments.folder / f"{name}.bank"
        shutil.rmtree(path, ignore_errors=True)
        figures[name] = measured(path, make(path), arguments.count, arguments.every)
        shutil.rmtree(path)
        notice(f"{name}: {figures[name]}")
    report(figures, arguments.every)
    config = {"count": arguments.count, "every": arguments.every}
    write_result("bank_documents", {"config": config, "machine": machine(), "results": figures})


def documents(path: Path) -> Callable[[int], None]:
    """Reads the document of a number."""
    method = create_method("longmem", load_backbone("tiny-llama"), reduction_factor=2, memory_size=2**22)
    session = Session(method, path=path)

    def read(number: int) -> None:
        session.read(TEXT.format(number=number, other=number * 7919 % 1000), f"document {number}")

    return read


def appends(path: Path) -> Callable[[int], None]:
    """Writes a few tokens more to one document."""
    bank = Bank(BankConfig(2, None), num_rows=1, num_kv_heads=3, head_dim=64, dtype=torch.bfloat16)
    document = bank.add_document("diary", text="what was said")
    keys, values = torch.randn(2, 1, 3, APPENDED, 64, dtype=torch.bfloat16)

    def write(number: int) -> None:
        ids = torch.arange(APPENDED)[None] + number
        bank.write(keys, values, ids, documents=[document])
        bank.save(path)

    return write


def measured(path: Path, step: Callable[[int], None], count: int, every: int) -> dict[str, Any]:
    """Milliseconds a step, of the wall and of the process, for each `every` steps; then the bank is opened."""
    step(0)
    wall, process = [], []
    for first in range(1, count + 1, every):
        started, busy = time.perf_counter(), time.process_time()
        for number in range(first, min(first + every, count + 1)):
            step(number)
        done = min(every, count + 1 - first)
        wall.append((time.perf_counter() - started) * 1000 / done)
        process.append((time.process_time() - busy) * 1000 / done)
    manifest = Bank.read_manifest(path)
    started = time.perf_counter()
    bank = Bank.load(path, verify=True)
    return {
        "wall_ms": wall,
        "process_ms": process,
        "opened_and_verified_s": time.perf_counter() - started,
        "tokens": bank.num_tokens(),
        "documents": len(manifest.documents),
        "shards": len(manifest.shards),
        "bank_bytes": manifest.num_bytes,
    }


def report(figures: dict[str, Any], every: int) -> None:
    """A table of the first and the last points."""
    rows = []
    for name, figure in figures.items():
        ends = [f"{figure[kind][place]:.1f}" for kind in ("wall_ms", "process_ms") for place in (0, -1)]
        rows.append([name, *ends, str(figure["shards"]), f"{figure['opened_and_verified_s']:.2f}"])
    print_table(["", "first, ms", "last, ms", "first, process", "last, process", "shards", "opened, s"], rows)


if __name__ == "__main__":
    main()
