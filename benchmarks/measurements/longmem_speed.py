"""What LongMem costs beside its backbone: reading, generating, retrieval, and bytes for each remembered token.

    python benchmarks/measurements/longmem_speed.py  # a few minutes on 2 cores; real weights, random tokens

Every ratio is taken in one run, the two sides in turn, each the median of its repetitions.
Writes benchmarks/results/longmem_speed.json.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import machine, print_table, write_result

from ltm.backbone import load_backbone
from ltm.malloc import keep_freed_memory
from ltm.methods.attention.longmem import LongMem, LongMemConfig
from ltm.methods.attention.longmem.window_reach import surroundings

REMEMBERED = 65_536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.backbone, dtype=arguments.dtype)
    method = LongMem(backbone, LongMemConfig()).to(backbone.dtype).eval()
    torch.manual_seed(0)
    held = remembered_bytes(method)  # before freed memory is kept: it would hide what is asked for
    keep_freed_memory()
    figures = {
        "reading": reading(method, arguments.repeat),
        "generating": generating(method, arguments.repeat),
        "retrieval": retrieval(method, arguments.repeat),
        "lengths": lengths(method, arguments.repeat),
        "bytes": held,
    }
    report(figures)
    result = {"backbone": arguments.backbone, "dtype": str(backbone.dtype), "results": figures, "machine": machine()}
    write_result(f"longmem_speed_{str(backbone.dtype).removeprefix('torch.')}", result)


def timed(
    repeat: int, sides: dict[str, Callable[[], object]], clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each side, ascending; the sides take turns, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeat + 1):
        for name, side in sides.items():
            started = clock()
            side()
            if turn:
                seconds[name].append(clock() - started)
    return {name: sorted(values) for name, values in seconds.items()}


def medians(repeat: int, **sides: Callable[[], object]) -> dict[str, float]:
    """The median of each side of `timed`."""
    return {name: statistics.median(values) for name, values in timed(repeat, sides).items()}


@torch.no_grad()
def reading(method: LongMem, repeat: int) -> dict[str, float]:
    """Reading a document, against the backbone's plain forward of the same segments in the same batches."""
    size = method.method_config.segment_size
    ids = torch.randint(0, method.backbone.view.vocab_size, (1, 2048))
    batch = ids.view(-1, size)
    times = medians(
        repeat,
        read=lambda: method.read(ids),
        forward=lambda: method.model(batch, use_cache=False),
        one_by_one=lambda: [method.model(segment[None], use_cache=False) for segment in batch],
    )
    method.bank = None
    rates = {f"{name}_tokens_per_s": ids.numel() / seconds for name, seconds in times.items()}
    return {**rates, "ratio": times["forward"] / times["read"], "ratio_one_by_one": times["one_by_one"] / times["read"]}


@torch.no_grad()
def generating(method: LongMem, repeat: int) -> dict[str, float]:
    """Seconds for each generated token: nothing remembered, 64k remembered, and the bare backbone."""
    new, vocab = 32, method.backbone.view.vocab_size
    prompt = torch.randint(5, vocab, (1, 128))
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    full = filled_bank(method)

    def generate(bank: object) -> None:
        method.bank = bank  # type: ignore[assignment]
        method.generate(prompt, **options)

    times = medians(
        repeat,
        none=lambda: generate(None),
        remembered=lambda: generate(full),
        backbone=lambda: method.model.generate(prompt, **options),
    )
    method.bank = None
    per_token = {f"{name}_ms": 1000 * seconds / new for name, seconds in times.items()}
    return {
        **per_token,
        "ratio": times["remembered"] / times["none"],
        "ratio_to_backbone": times["remembered"] / times["backbone"],
    }


@torch.no_grad()
def retrieval(method: LongMem, repeat: int) -> dict[str, float]:
    """Retrieval for 1,024 query tokens of all heads, against the backbone's forward on 1,024 tokens."""
    view, config = method.backbone.view, method.method_config
    bank, chunks = filled_bank(method), config.retrieved_tokens // config.chunk_size
    queries = torch.randn(1, view.num_heads, 1024, view.head_dim, dtype=method.dtype)
    ids = torch.randint(0, view.vocab_size, (1, 1024))
    recent, _ = surroundings(ids, torch.ones_like(ids, dtype=torch.bool))
    for_pointer, pointer_chunks = queries[:, : view.num_kv_heads], config.pointer_tokens // config.chunk_size
    times = medians(
        repeat,
        search=lambda: bank.search(queries, chunks),
        retrieve=lambda: bank.retrieve(queries, chunks),
        neighbours=lambda: bank.neighbours(for_pointer, pointer_chunks, recent=recent),
        forward=lambda: method.model(ids, use_cache=False),
    )
    return {
        **{f"{name}_ms": 1000 * seconds for name, seconds in times.items()},
        "search_share": times["search"] / times["forward"],
        "ratio": times["retrieve"] / times["forward"],
        "pointer_ratio": times["neighbours"] / times["forward"],
    }


@torch.no_grad()
def lengths(method: LongMem, repeat: int) -> list[dict[str, float]]:
    """Processor milliseconds (least, median) of attention's and the pointer's retrieval for one token and for 1,024, by
    tokens remembered; for a busy machine, on which wall time says little."""
    view, config, found = method.backbone.view, method.method_config, []
    large = LongMem(method.backbone, replace(config, memory_size=4 * REMEMBERED)).to(method.dtype)
    chunks, pointer_chunks = (n // config.chunk_size for n in (config.retrieved_tokens, config.pointer_tokens))
    for remembered in (4096, REMEMBERED, 4 * REMEMBERED):
        bank = filled_bank(large, remembered)
        for tokens in (1, 1024):
            queries = torch.randn(1, view.num_heads, tokens, view.head_dim, dtype=method.dtype)
            ids = torch.randint(0, view.vocab_size, (1, tokens))
            recent, _ = surroundings(ids, torch.ones_like(ids, dtype=torch.bool))
            sides = {
                "attention": partial(bank.retrieve, queries, chunks),
                "pointer": partial(bank.neighbours, queries[:, : view.num_kv_heads], pointer_chunks, recent=recent),
                "forward": partial(method.model, ids, use_cache=False),
            }
            seconds = timed(repeat if tokens > 1 else 20 * repeat, sides, time.process_time)
            least = {f"{name}_least_ms": 1000 * values[0] for name, values in seconds.items()}
            middle = {f"{name}_median_ms": 1000 * statistics.median(values) for name, values in seconds.items()}
            found.append({"remembered": remembered, "tokens": tokens, **least, **middle})
    return found


def filled_bank(method: LongMem, remembered: int = REMEMBERED):
    """A bank of random entries."""
    view, bank = method.backbone.view, method.new_bank(1)
    for _ in range(remembered // 4096):
        keys = torch.randn(1, view.num_kv_heads, 4096, view.head_dim)
        bank.write(keys, keys, torch.randint(0, view.vocab_size, (1, 4096)))
    return bank


def remembered_bytes(method: LongMem) -> dict[str, float]:
    """Bytes a remembered token: keys and values from the config; everything as held, resident and on disk."""
    view, width = method.backbone.view, torch.finfo(method.dtype).bits // 8
    gc.collect()
    before = resident_bytes()
    bank = filled_bank(method)
    gc.collect()
    resident = resident_bytes() - before
    with tempfile.TemporaryDirectory() as folder:
        bank.save(Path(folder) / "bank")
        on_disk = sum(file.stat().st_size for file in (Path(folder) / "bank").rglob("*") if file.is_file())
    keys_values = 2 * view.num_kv_heads * view.head_dim * width
    return {
        "keys_and_values_from_config": keys_values,
        "with_search_keys_from_config": keys_values + keys_values / 2 / method.method_config.chunk_size,
        "held_tensors": bank.nbytes / REMEMBERED,
        "resident": resident / REMEMBERED,
        "on_disk": on_disk / REMEMBERED,
    }


def resident_bytes() -> int:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def report(figures: dict[str, Any]) -> None:
    wanted = {"reading": "at least 1.4", "generating": "at most 1.25", "retrieval": "at most 0.15"}
    rows = [
        [
            name,
            f"{figures[name]['ratio']:.3f}",
            wanted[name],
            ", ".join(f"{k} {v:.4g}" for k, v in figures[name].items()),
        ]
        for name in wanted
    ]
    print_table(["what", "ratio", "wanted", "figures"], rows)
    names = [f"{side}_{kind}_ms" for side in ("attention", "pointer", "forward") for kind in ("least", "median")]
    by_length = [
        [f"{case['tokens']:,} over {case['remembered']:,}", *(f"{case[name]:.2f}" for name in names)]
        for case in figures["lengths"]
    ]
    print_table(["tokens over remembered", *names], by_length)
    print_table(["bytes a remembered token", "bytes"], [[k, f"{v:,.0f}"] for k, v in figures["bytes"].items()])


if __name__ == "__main__":
    main()
