"""When a bank over several processes, or in Qdrant, serves better than one process: the same search on every side.

    python benchmarks/measurements/bank_spread.py  # two minutes on two idle cores; extra: qdrant

Random keys, 3 kv heads of 64, chunks of 2 tokens, in float32; 1 and 64 query tokens of 9 heads, 16 chunks each. One
process searches with one thread; a bank over 2 ranks (gloo) with one thread each, so that each holds half; Qdrant in
this process (its client's local mode, numpy), exact, without fetching. Wall milliseconds, the median of five: needs
idle cores. Writes benchmarks/results/bank_spread.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import machine, notice, print_table, write_result
from torch import Tensor, distributed, multiprocessing

from ltm.bank import Bank, BankConfig, ShardedBank

KV_HEADS, HEAD_DIM, CHUNK, TOP_K, RANKS = 3, 64, 2, 16, 2
TOKENS = (1, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", default="4096,16384,65536,262144,1048576")
    parser.add_argument("--qdrant", type=int, default=16_384, help="most chunks to put into Qdrant; 0: none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for chunks in map(int, arguments.chunks.split(",")):
        sides = {"one process": alone(chunks, "exact"), f"{RANKS} ranks": over_ranks(chunks)}
        if chunks <= arguments.qdrant:
            sides["qdrant, local"] = alone(chunks, "qdrant")
        found[chunks] = sides
        notice(f"{chunks:,} chunks: {sides}")
    report(found)
    config = {"kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "chunk_size": CHUNK, "top_k": TOP_K, "tokens": TOKENS}
    write_result("bank_spread", {"config": config, "wall_ms": found, "machine": machine()})


def new_bank(index: str) -> Bank:
    config = BankConfig(chunk_size=CHUNK, memory_size=None, index=index)
    return Bank(config, num_rows=1, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM)


def filled(bank: Any, chunks: int) -> Any:
    """With so many chunks of random keys, written a part at a time, and room for no more."""
    random = torch.Generator().manual_seed(0)
    for _ in range(0, chunks, 65536):
        tokens = CHUNK * min(chunks, 65536)
        keys = torch.randn(1, KV_HEADS, tokens, HEAD_DIM, generator=random)
        bank.write(keys, keys, torch.zeros(1, tokens, dtype=torch.int64))
    return bank


def queries(tokens: int) -> Tensor:
    return torch.randn(1, 3 * KV_HEADS, tokens, HEAD_DIM, generator=torch.Generator().manual_seed(1))


def alone(chunks: int, index: str) -> list[float]:
    bank = filled(new_bank(index), chunks)
    if index == "qdrant":
        return [milliseconds(partial(bank.search, queries(tokens), TOP_K)) for tokens in TOKENS[:1]]
    return measured(bank)


def measured(bank: Any) -> list[float]:
    """Of searching and fetching, for each number of query tokens."""
    return [milliseconds(partial(bank.retrieve, queries(tokens), TOP_K)) for tokens in TOKENS]


def milliseconds(side: Callable[[], object]) -> float:
    side()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        side()
        seconds.append(time.perf_counter() - started)
    return round(1000 * statistics.median(seconds), 3)


def over_ranks(chunks: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        running = [context.Process(target=rank_process, args=(rank, chunks, folder)) for rank in range(RANKS)]
        for one in running:
            one.start()
        for one in running:
            one.join()
        if any(one.exitcode for one in running):
            raise SystemExit("a rank failed")
        return torch.load(Path(folder) / "0.pt")


def rank_process(rank: int, chunks: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    found = measured(filled(ShardedBank(new_bank("exact")), chunks))
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def report(found: dict[int, dict[str, Sequence[float]]]) -> None:
    labels = list(dict.fromkeys(label for sides in found.values() for label in sides))
    header = ["chunks", *(f"{label}, {tokens} tok" for label in labels for tokens in TOKENS)]
    rows = []
    for chunks, sides in found.items():
        cells = [f"{chunks:,}"]
        for label in labels:
            own = sides.get(label, [])
            cells += [f"{own[place]:,.1f}" if place < len(own) else "" for place in range(len(TOKENS))]
        rows.append(cells)
    print_table(header, rows)


if __name__ == "__main__":
    main()
