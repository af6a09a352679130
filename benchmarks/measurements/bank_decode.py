"""What retrieval costs for each generated token, against the size of the bank, beside the backbone's own step.

    OMP_NUM_THREADS=1 python benchmarks/measurements/bank_decode.py --keys keys.safetensors  # to 1M tokens, 4 minutes
    OMP_NUM_THREADS=1 python benchmarks/measurements/bank_decode.py --keys keys.safetensors \\
        --tokens 1024,131072,1048576,4194304

Keys that real_keys.py made, in chunks of 2 tokens, tiled where the bank is larger, with a little noise so that
copies differ. For each size: LongMem's two searches for one token (9 heads, 16 chunks; all heads together, 32 chunks)
with fetching keys and values, exact and approximate; then a step of SmolLM2-135M with 1,024 tokens in its cache. One
thread, processor milliseconds, the least of 20. Writes benchmarks/results/bank_decode.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import machine, notice, print_table, write_result
from real_keys import load_real_keys

from ltm.backbone import load_backbone
from ltm.bank import Bank, BankConfig
from ltm.compat import cache_argument, cache_of

HEADS_ALONE, HEADS_TOGETHER = 16, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--tokens", default="1024,16384,131072,1048576")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keys, queries = load_real_keys(arguments.keys, 1, 1)
    rows = []
    for tokens in map(int, arguments.tokens.split(",")):
        for index in ("exact", "approximate"):
            rows.append({"tokens": tokens, "index": index, **measure(keys, queries, tokens, index)})
            notice(str(rows[-1]))
            write_result("bank_decode", {"step_ms": None, "rows": rows, "machine": machine()})
    step = step_ms()
    write_result("bank_decode", {"step_ms": step, "rows": rows, "machine": machine()})
    header = ["tokens", "index", "search", "joint", "fetch", "all in ms", "share of the backbone's step"]
    print_table(
        header,
        [
            [f"{row['tokens']:,}", row["index"]]
            + [f"{row[name]:.2f}" for name in ("search_ms", "joint_ms", "fetch_ms", "all_ms")]
            + [f"{row['all_ms'] / step:.0%}"]
            for row in rows
        ],
    )


def measure(keys: torch.Tensor, queries: torch.Tensor, tokens: int, index: str) -> dict[str, float]:
    """keys [kv_heads, real tokens, head_dim]; queries [heads, tokens, head_dim]."""
    kv_heads, real, dim = keys.shape
    config = BankConfig(chunk_size=2, memory_size=tokens, index=index)
    bank = Bank(config, num_rows=1, num_kv_heads=kv_heads, head_dim=dim, dtype=keys.dtype)
    random = torch.Generator().manual_seed(0)
    for start in range(0, tokens, 65536):
        size = min(65536, tokens - start)
        low = start % (real - 65536) if real > 65536 else 0
        part = keys[None, :, low : low + size].float()
        if start >= real - 65536:
            part = part + 0.3 * torch.randn(part.shape, generator=random)
        bank.write(part, part, torch.zeros(1, size, dtype=torch.long))
    asked = queries[None]
    bank.search(asked[:, :, :512], 1)  # tells an approximate index what is asked, as a prompt does
    bank.neighbours(keys[None, :, 1000:1512], 1)
    single, joint = asked[:, :, 700:701], keys[None, :, 5000:5001]
    sides: dict[str, Callable[[], object]] = {
        "search_ms": lambda: bank.search(single, HEADS_ALONE),
        "joint_ms": lambda: bank.neighbours(joint, HEADS_TOGETHER),
        "all_ms": lambda: (bank.retrieve(single, HEADS_ALONE), bank.neighbours(joint, HEADS_TOGETHER)),
    }
    figures = {name: least_ms(side) for name, side in sides.items()}
    figures["fetch_ms"] = figures["all_ms"] - figures["search_ms"] - figures["joint_ms"]
    return {name: round(value, 3) for name, value in figures.items()}


@torch.no_grad()
def step_ms() -> float:
    """One step of the backbone with 1,024 tokens in its cache."""
    backbone = load_backbone("smollm2-135m")
    out = backbone.model(torch.randint(100, 40000, (1, 1024)), use_cache=True)
    token = torch.tensor([[100]])
    return least_ms(lambda: backbone.model(token, **cache_argument(cache_of(out)), use_cache=True))


def least_ms(side: Callable[[], object], repeat: int = 20) -> float:
    side()
    times = []
    for _ in range(repeat):
        started = time.process_time()
        side()
        times.append(1000 * (time.process_time() - started))
    return min(times)


if __name__ == "__main__":
    main()
