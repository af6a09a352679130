"""Exact search of a bank against faiss' IndexFlatIP and against the bare matrix product, in one run.

    OMP_NUM_THREADS=1 python benchmarks/measurements/bank_search.py  # 5 minutes on one core
    OMP_NUM_THREADS=1 python benchmarks/measurements/bank_search.py --chunks 4096,65536  # 1 minute

The same queries, keys and k; one thread each, all kv heads of SmolLM2-135M (3 heads of 64), k = 16. "One token" is 3
queries a kv head (9 heads share 3), "many" 1,024 tokens. Figures are processor milliseconds (what other programs do on
the machine counts less), the least of the repetitions, the sides in turn. The product writes its scores to one buffer
that stays in cache, and selects nothing: what it takes is the limit. A search without BLAS below 20 queries is faiss'
own choice. Writes benchmarks/results/bank_search.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from common import machine, notice, print_table, write_result
from torch import Tensor

from ltm.bank import exact_search
from ltm.bank.search import exact as search
from ltm.bank.search.exact import FEW_QUERIES

KV_HEADS, HEAD_DIM, TOP_K = 3, 64, 16
MOST_PRODUCTS = 2**30
"""Inner products of a case; where 1,024 tokens would need more, fewer tokens ask."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", default="4096,65536,1048576")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = []
    for chunks in map(int, arguments.chunks.split(",")):
        most = max(MOST_PRODUCTS // (3 * KV_HEADS * chunks) // 64 * 64, 64)
        for tokens in (1, min(1024, most)):
            cases.append(measure(chunks, tokens, arguments.repeat))
            notice(f"{chunks:,} chunks, {tokens:,} tokens: {cases[-1]['ms']}")
    print_table(*table(cases))
    write_result("bank_search", {"top_k": TOP_K, "cases": cases, "machine": machine()})


def measure(chunks: int, tokens: int, repeat: int) -> dict:
    """Milliseconds of every side for one size."""
    import faiss

    faiss.omp_set_num_threads(1)
    keys = torch.randn(KV_HEADS, chunks, HEAD_DIM)
    queries = torch.randn(KV_HEADS, 3 * tokens, HEAD_DIM)
    half_keys, half_queries = keys.bfloat16(), queries.bfloat16()
    indexes = []
    for head in keys:
        indexes.append(faiss.IndexFlatIP(HEAD_DIM))
        indexes[-1].add(head.numpy())
    sides: dict[str, Callable[[], object]] = {
        "faiss": lambda: [index.search(q.numpy(), TOP_K) for index, q in zip(indexes, queries, strict=True)],
        "ours_float32": lambda: exact_search(queries, keys, TOP_K),
        "ours_bfloat16": lambda: exact_search(half_queries, half_keys, TOP_K),
        "product_float32": lambda: product(queries, keys),
        "product_bfloat16": lambda: product(half_queries, half_keys),
    }
    least = dict.fromkeys(sides, float("inf"))
    for turn in range(repeat + 1):
        for name, side in sides.items():
            started = time.process_time()
            side()
            if turn:
                least[name] = min(least[name], 1000 * (time.process_time() - started))
    return {"chunks": chunks, "tokens": tokens, "ms": {name: round(value, 3) for name, value in least.items()}}


def product(queries: Tensor, keys: Tensor) -> None:
    """All inner products, block by block as the search makes them, and nothing else."""
    if queries.shape[1] <= FEW_QUERIES:
        for _, pieces in search._key_blocks([keys]):
            search._row_scores(queries, pieces)
        return
    blocks = list(search._key_blocks([keys]))
    most = max(pieces[0].shape[1] for _, pieces in blocks)
    size = search.query_block(most, keys.device)
    room = queries.new_empty(most * size)
    for head, asked in enumerate(queries):
        for part in asked.split(size):
            for _, pieces in blocks:
                into = room[: most * len(part)].view(most, -1)
                search._column_scores(part, [piece[head] for piece in pieces], into)


def table(cases: list[dict]) -> tuple[list[str], list[list[str]]]:
    header = ["chunks x tokens", "faiss fp32", "ours fp32", "ours bf16", "product / ours fp32", "bf16", "faiss / ours"]
    rows = []
    for case in cases:
        ms = case["ms"]
        rows.append(
            [f"{case['chunks']:,} x {case['tokens']:,}"]
            + [f"{ms[name]:,.2f} ms" for name in ("faiss", "ours_float32", "ours_bfloat16")]
            + [f"{ms[f'product_{kind}'] / ms[f'ours_{kind}']:.0%}" for kind in ("float32", "bfloat16")]
            + [f"{ms['faiss'] / ms['ours_float32']:.2f} (bf16 {ms['faiss'] / ms['ours_bfloat16']:.2f})"]
        )
    return header, rows


if __name__ == "__main__":
    main()
