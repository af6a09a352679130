"""How fast text is read as the memory grows, for methods whose memory is in attention, beside a plain window.

    python benchmarks/measurements/attention_reading.py --data DATA --lengths 4096,16384  # three minutes on one core
    python benchmarks/measurements/attention_reading.py --data DATA  # to 262,144 tokens; an hour

One text of essays (repeated where it ends) is read once by each method, in one row; what the first so many tokens took
is noted on the way. Processor time of one thread (what other programs do on the machine counts less). Beside them:

- sliding window: the backbone alone, segment by segment with the tokens before it in its cache, as many tokens to a
  segment and as many before it as the methods have. Nothing that reads with such a window can be faster.
- window, scoring: `ltm`'s window, which gives logits for every token and encodes the kept half anew as it moves.

Writes benchmarks/results/attention_reading.json after every method; --restart begins anew.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attention_memory import real_tokens
from common import RESULTS, machine, notice, print_table, write_result

from ltm.backbone import Backbone, load_backbone
from ltm.bench import parse_methods
from ltm.compat import DynamicCache, cache_argument
from ltm.malloc import keep_freed_memory
from ltm.methods import create_method

WINDOW = 1024
SEGMENT = WINDOW // 2
PIECE = 2048
"""Tokens between two looks at the clock."""
SLIDING, SCORING = "sliding window", "window, scoring"
SHORT = {SLIDING: 16_384, SCORING: 16_384}
"""What does not grow is read no further."""

Reader = Callable[[torch.Tensor], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--methods", default="em_llm,em_llm:segmentation=blocks as blocks")
    parser.add_argument("--lengths", default="4096,16384,65536,262144")
    parser.add_argument("--data", type=Path, default=None, help="folder of benchmark data; random tokens without it")
    parser.add_argument("--name", default="attention_reading", help="of the result file")
    parser.add_argument("--restart", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    backbone = load_backbone(arguments.backbone)
    lengths = sorted(int(length) for length in arguments.lengths.split(","))
    text = real_tokens(backbone, arguments.data, lengths[-1])
    known = {} if arguments.restart else earlier(arguments.name)
    for label, make in sides(backbone, arguments.methods).items():
        longest = min(lengths[-1], SHORT.get(label, lengths[-1]))
        if known.get(label, [[0, 0.0]])[-1][0] < longest:
            known[label] = seconds_by_length(label, make(), text[:, :longest])
            save(arguments, backbone, known)
    report(known, lengths)


def sides(backbone: Backbone, methods: str) -> dict[str, Callable[[], Reader]]:
    found: dict[str, Callable[[], Reader]] = {
        SLIDING: lambda: sliding_window(backbone),
        SCORING: lambda: scoring_window(backbone),
    }
    for spec in parse_methods(methods):
        found[spec.label] = lambda spec=spec: create_method(spec.name, backbone, **spec.options).read  # type: ignore[misc]
    return found


def sliding_window(backbone: Backbone) -> Reader:
    """The backbone over a cache of the SEGMENT tokens before."""
    cache = DynamicCache()

    def read(ids: torch.Tensor) -> None:
        for piece in ids.split(SEGMENT, dim=1):
            backbone.model(piece, **cache_argument(cache), use_cache=True, logits_to_keep=1)
            for layer in cache.layers:
                layer.keys, layer.values = (t[:, :, -SEGMENT:].contiguous() for t in (layer.keys, layer.values))

    return read


def scoring_window(backbone: Backbone) -> Reader:
    method = create_method("window", backbone, local_window=WINDOW, stride=SEGMENT)
    cache = method.new_cache()
    return lambda ids: method(ids, cache=cache, use_cache=True)


@torch.no_grad()
def seconds_by_length(label: str, read: Reader, text: torch.Tensor) -> list[list[float]]:
    """[tokens, seconds that reading them took] after every piece."""
    found, seconds = list[list[float]](), 0.0
    for piece in text.split(PIECE, dim=1):
        started = time.process_time()
        read(piece)
        seconds += time.process_time() - started
        done = (len(found) * PIECE) + piece.shape[1]
        found.append([done, round(seconds, 3)])
        if done % (8 * PIECE) == 0 or done == text.shape[1]:
            notice(f"{label}: {done:,} tokens in {seconds:.0f} s, {done / seconds:.0f} tokens/s")
    return found


def earlier(name: str) -> dict[str, list[list[float]]]:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text())["seconds_by_length"] if file.exists() else {}


def save(arguments: argparse.Namespace, backbone: Backbone, figures: dict[str, list[list[float]]]) -> None:
    config = {key: getattr(arguments, key) for key in ("methods", "lengths")} | {"window": WINDOW, "segment": SEGMENT}
    head: dict[str, Any] = {"backbone": backbone.name, "dtype": str(backbone.dtype), "config": config}
    write_result(arguments.name, {**head, "machine": machine(), "seconds_by_length": figures})


def rate(own: list[list[float]], length: int) -> float | None:
    """Tokens a second of the first `length` tokens."""
    return next((tokens / seconds for tokens, seconds in own if tokens == length), None)


def report(figures: dict[str, list[list[float]]], lengths: list[int]) -> None:
    rows = []
    for label, own in figures.items():
        rates = [rate(own, length) for length in lengths]
        beside = [
            f"{rates[1] / base:.2f}" if rates[1] and (base := rate(figures[side], lengths[1])) else ""
            for side in (SLIDING, SCORING)
        ]
        last = own[-1][0] - own[len(own) // 2][0], own[-1][1] - own[len(own) // 2][1]
        growth = (last[0] / last[1]) / (own[len(own) // 2][0] / own[len(own) // 2][1]) if last[1] else None
        rows.append(
            [
                label,
                *("" if r is None else f"{r:.0f}" for r in rates),
                *beside,
                "" if growth is None else f"{growth:.2f}",
            ]
        )
    header = ["tokens/s", *(f"{length:,}" for length in lengths), f"/ {SLIDING}", f"/ {SCORING}", "second half / first"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
