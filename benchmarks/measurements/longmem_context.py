"""LongMem beside full attention at 4k, 8k and 32k tokens of context: taking it in, generating after it, and memory.

    python benchmarks/measurements/longmem_context.py  # about ten minutes on 2 cores; real weights, random tokens

Full attention prefills the whole context and keeps keys and values of every layer; LongMem reads it into its bank and
keeps one layer's. Lengths beyond the backbone's positions are run all the same: time does not depend on sense. Sides
take turns; each figure is the median of its repetitions. Writes benchmarks/results/longmem_context.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import machine, notice, print_table, write_result

from ltm.backbone import load_backbone
from ltm.compat import DynamicCache, cache_argument
from ltm.malloc import keep_freed_memory
from ltm.methods.attention.longmem import LongMem, LongMemConfig

NEW_TOKENS = 16
PROMPT = 64
"""Tokens of the present that LongMem is given beside its memory."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--lengths", default="4096,8192,32768")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    keep_freed_memory()
    backbone = load_backbone(arguments.backbone)
    method = LongMem(backbone, LongMemConfig()).to(backbone.dtype).eval()
    torch.manual_seed(0)
    figures = {}
    for length in map(int, arguments.lengths.split(",")):
        figures[length] = at_length(method, length, arguments.repeat)
        notice(f"{length:,}: {figures[length]}")
    report(figures)
    config = {"lengths": arguments.lengths, "repeat": arguments.repeat, "new_tokens": NEW_TOKENS}
    result = {"backbone": arguments.backbone, "dtype": str(backbone.dtype), "config": config, "machine": machine()}
    write_result("longmem_context", {**result, "results": figures})


@torch.no_grad()
def at_length(method: LongMem, length: int, repeat: int) -> dict[str, Any]:
    """Tokens/s and bytes of both sides after a context of `length` random tokens."""
    context = torch.randint(5, method.backbone.view.vocab_size, (1, length))
    full, memory = full_attention(method, context, repeat), longmem(method, context, repeat)
    return {
        "full": full,
        "longmem": memory,
        "taking in, ratio": memory["take_in_tokens_per_s"] / full["take_in_tokens_per_s"],
        "generating, ratio": memory["generate_tokens_per_s"] / full["generate_tokens_per_s"],
        "whole job, ratio": full["whole_seconds"] / memory["whole_seconds"],
        "bytes, ratio": memory["bytes"] / full["bytes"],
    }


def full_attention(method: LongMem, context: torch.Tensor, repeat: int) -> dict[str, float]:
    """The bare backbone: prefill in pieces of 2,048, then one token after another on its cache."""
    cache = DynamicCache()
    started = time.perf_counter()
    for piece in context.split(2048, dim=1):
        method.model(piece, **cache_argument(cache), use_cache=True, logits_to_keep=1)
    taking_in = time.perf_counter() - started
    token = context[:, :1]

    def generate() -> None:
        for _ in range(NEW_TOKENS):
            method.model(token, **cache_argument(cache), use_cache=True, logits_to_keep=1)
        cache.crop(-NEW_TOKENS)

    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return figures_of(context.shape[1], taking_in, median(generate, repeat), held)


def longmem(method: LongMem, context: torch.Tensor, repeat: int) -> dict[str, float]:
    """Read all but the prompt into the bank, then generate after the prompt."""
    method.reset()
    started = time.perf_counter()
    method.read(context[:, :-PROMPT])
    taking_in = time.perf_counter() - started
    stream = method.new_cache()
    method(context[:, -PROMPT:], cache=stream, use_cache=True, logits_to_keep=1)
    token = context[:, :1]

    def generate() -> None:
        for _ in range(NEW_TOKENS):
            method(token, cache=stream, use_cache=True, logits_to_keep=1)

    seconds = median(generate, repeat)
    assert method.bank is not None
    held = method.bank.nbytes + stream.nbytes()
    method.bank = None
    return figures_of(context.shape[1], taking_in, seconds, held)


def figures_of(length: int, taking_in: float, generating: float, held: int) -> dict[str, float]:
    return {
        "take_in_tokens_per_s": length / taking_in,
        "generate_tokens_per_s": NEW_TOKENS / generating,
        "whole_seconds": taking_in + generating,
        "bytes": held,
    }


def median(side: Callable[[], None], repeat: int) -> float:
    """Median seconds of `repeat` calls after one that does not count."""
    seconds = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        side()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def report(figures: dict[int, dict[str, Any]]) -> None:
    rows = []
    for length, found in figures.items():
        for name in ("full", "longmem"):
            side = found[name]
            speeds = (f"{side['take_in_tokens_per_s']:,.0f}", f"{side['generate_tokens_per_s']:.1f}")
            rows.append([f"{length:,}", name, *speeds, f"{side['bytes'] / 2**20:,.1f}"])
        ratios = (f"{found['taking in, ratio']:.2f} x", f"{found['generating, ratio']:.2f} x")
        rows.append(["", "ratio", *ratios, f"{found['bytes, ratio']:.3f} x"])
    print_table(["context", "", "taking in, tokens/s", "generating, tokens/s", "MiB of keys and values"], rows)


if __name__ == "__main__":
    main()
