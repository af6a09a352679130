"""A bank of 4M tokens in a process with 1 GB of memory: how long it takes to open, to search, and what it takes up.

    python benchmarks/measurements/bank_mapped.py --data DATA --folder SCRATCH
        # DATA/books/test.jsonl.gz; needs 8 GB of disk

Real keys and values of SmolLM2's memory layer (8,192 tokens of a book), repeated. Each bank is opened in a process of
its own whose address space is limited to what Python and torch have, the bank's files (which are mapped, and which the
system may drop from memory at any time), and 1 GB. Opened with the files dropped from the page cache, and once more.
Writes benchmarks/results/bank_mapped.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bank_storage import SETTINGS
from common import machine, notice, print_table, write_result

from ltm.backbone import load_backbone
from ltm.bank import Bank
from ltm.data.documents import iter_documents
from ltm.data.tokens import token_ids
from ltm.methods.opening import open_method

FREE_BYTES = 10**9
REAL_TOKENS = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with books/test.jsonl.gz")
    parser.add_argument("--folder", type=Path, help="where the banks are made; each is removed when it was measured")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=2**22)
    parser.add_argument("--settings", default="int4+derived,int4+int8 search,as computed")
    parser.add_argument("--open", type=Path, help="(of the limited process) the bank to open")
    arguments = parser.parse_args()
    if arguments.open is not None:
        print(json.dumps(opened(arguments.open)))
        return
    figures = {}
    for name in arguments.settings.split(","):
        path = arguments.folder / "large.bank"
        make(path, arguments, name)
        try:
            figures[name] = in_limited_process(path)
        finally:
            shutil.rmtree(path, ignore_errors=True)
        notice(f"{name}: {figures[name]}")
    report(figures)
    config = {"tokens": arguments.tokens, "free_bytes": FREE_BYTES, "backbone": arguments.backbone}
    write_result("bank_mapped", {"config": config, "machine": machine(), "results": figures})


def make(path: Path, arguments: argparse.Namespace, name: str) -> None:
    """A bank of so many tokens on the disk."""
    shutil.rmtree(path, ignore_errors=True)
    keys, values, search = SETTINGS[name]
    storages = {"key_storage": keys, "value_storage": values, "search_storage": search}
    backbone = load_backbone(arguments.backbone)
    method = open_method("longmem", backbone, memory_size=arguments.tokens, **storages)
    document = next(iter(iter_documents(arguments.data / "books" / "test.jsonl.gz")))
    method.read(token_ids(backbone.tokenizer, document.text[: 6 * REAL_TOKENS])[None, :REAL_TOKENS])
    bank = method.bank
    assert isinstance(bank, Bank)
    (row,) = bank.rows
    block, tokens = row.chunks(0, row.num_chunks), bank.num_tokens()
    row.ring.reserve(arguments.tokens // bank.config.chunk_size)
    while bank.num_tokens() + tokens <= arguments.tokens:
        row.append(block, tokens)
    bank.save(path)
    notice(f"{name}: {bank.num_tokens():,} tokens, {Bank.read_manifest(path).num_bytes / 2**20:,.0f} MiB")


def in_limited_process(path: Path) -> dict[str, Any]:
    """What `opened` gives there, cold and warm."""
    found = {}
    for state in ("cold", "warm"):
        if state == "cold":
            drop_from_page_cache(path)
        command = [sys.executable, __file__, "--open", str(path)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            return {"error": ran.stderr.strip().splitlines()[-1]}
        found[state] = json.loads(ran.stdout)
    return {**found["warm"], "cold_open_seconds": found["cold"]["open_seconds"]}


def drop_from_page_cache(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file() and hasattr(os, "posix_fadvise"):
            with open(file, "rb") as content:
                os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def opened(path: Path) -> dict[str, Any]:
    """Open, search and fetch with FREE_BYTES beside the mapped files."""
    manifest = Bank.read_manifest(path)
    torch.ones(1, 64) @ torch.ones(64, 64)  # what torch sets up for itself is there before the limit
    limit = status_bytes("VmSize") + manifest.num_bytes + FREE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = status_bytes("RssAnon")
    started, cpu_before = time.perf_counter(), time.process_time()
    bank = Bank.load(path)
    open_seconds, open_cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_before
    keys = bank.gather(bank.search(torch.zeros(1, bank.num_kv_heads, 1, bank.head_dim), 64))[0]
    queries = keys[:, :, :, :16].transpose(2, 3).flatten(2, 3)[:, :, :16].contiguous()  # 16 real keys ask
    one = queries[:, :, :1]
    peak = status_bytes("RssAnon")
    figures = {
        "tokens": bank.num_tokens(),
        "file_bytes": manifest.num_bytes,
        "open_seconds": open_seconds,
        "open_cpu_seconds": open_cpu_seconds,
        "retrieve_1_token_s": median(lambda: bank.retrieve(one, 16)),
        "retrieve_16_tokens_s": median(lambda: bank.retrieve(queries, 16)),
        "neighbours_1_token_s": median(lambda: bank.neighbours(one, 32)),
    }
    grown = max(status_bytes("RssAnon"), peak) - before
    return {**figures, "anonymous_bytes": grown, "limit_beside_files": FREE_BYTES}


def median(side: Callable[[], Any]) -> float:
    """Median seconds of three calls."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        side()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def status_bytes(name: str) -> int:
    """A figure of /proc/self/status (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def report(figures: dict[str, dict[str, Any]]) -> None:
    rows = []
    for name, found in figures.items():
        if "error" in found:
            rows.append([name, found["error"], *[""] * 6])
            continue
        times = [found[key] for key in ("cold_open_seconds", "open_seconds")]
        searches = [found[key] for key in ("retrieve_1_token_s", "retrieve_16_tokens_s", "neighbours_1_token_s")]
        sizes = [f"{found['file_bytes'] / 2**20:,.0f}", f"{found['anonymous_bytes'] / 2**20:,.0f}"]
        rows.append([name, *sizes, *(f"{t:.2f}" for t in times), *(f"{1000 * t:,.0f}" for t in searches)])
    header = [
        "setting",
        "MiB on disk",
        "MiB of memory",
        "open cold s",
        "open s",
        "1 query ms",
        "16 ms",
        "neighbours ms",
    ]
    print_table(header, rows)


if __name__ == "__main__":
    main()
