"""Decode time per token against context length, for methods whose memory is in attention, beside full attention.

    python benchmarks/measurements/attention_memory.py --data DATA --lengths 1024,8192 --methods em_llm,full
        # two minutes
    python benchmarks/measurements/attention_memory.py --data DATA  # to 128k tokens; resumes, half an hour on one core

--methods takes names of the registry with options, as `ltm bench run` does: em_llm:segmentation=blocks. Each method
reads one text of essays, once, and is stopped at every length to decode. With --read N only the first N tokens are read
and longer memories repeat their entries, which is faster and flatters caches. Full attention is the bare backbone on
a cache that repeats its first 4,096 tokens, also beyond its trained positions: what its keys are changes nothing for
its time. Each figure is the median over `--repeat` runs of 8 tokens, processor time of one thread (what other
programs do on the machine counts less). Writes benchmarks/results/attention_memory.json after every figure; a method
with all lengths there is not run again; --restart begins anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, machine, notice, print_table, write_result

from ltm.backbone import Backbone, load_backbone
from ltm.bank import Bank, EventCut
from ltm.bench import parse_methods
from ltm.compat import DynamicCache, cache_argument
from ltm.malloc import keep_freed_memory
from ltm.methods import Method, create_method
from ltm.tasks.data import DataSource

NEW_TOKENS = 8
PROMPT = 32
FULL_READ = 4096
"""Tokens that full attention reads for real."""
METHODS = "full,em_llm,em_llm:segmentation=blocks as blocks"
LENGTHS = "1024,2048,4096,8192,16384,32768,65536,131072"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--lengths", default=LENGTHS)
    parser.add_argument("--read", type=int, default=None, help="tokens that are really read; none: all")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--data", type=Path, default=None, help="folder of benchmark data; random tokens without it")
    parser.add_argument("--name", default="attention_memory", help="of the result file")
    parser.add_argument("--restart", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    backbone = load_backbone(arguments.backbone)
    lengths = sorted(int(length) for length in arguments.lengths.split(","))
    text = real_tokens(backbone, arguments.data, max(lengths[-1], PROMPT + NEW_TOKENS * (arguments.repeat + 1)))
    known = {} if arguments.restart else earlier(arguments.name)
    for spec in parse_methods(arguments.methods):
        own = known.setdefault(spec.label, {})
        missing = [length for length in lengths if str(length) not in own]
        if not missing:
            continue
        method = create_method(spec.name, backbone, **spec.options)
        started = time.perf_counter()
        for length, ms in decode_ms(method, text, lengths, arguments.read or lengths[-1], arguments.repeat):
            own[str(length)] = ms
            notice(f"{spec.label} at {length:,}: {ms:.1f} ms a token ({time.perf_counter() - started:.0f} s by now)")
            save(arguments, backbone, known)
    save(arguments, backbone, known)
    report(known, lengths)


@torch.no_grad()
def decode_ms(
    method: Method, text: torch.Tensor, lengths: list[int], read: int, repeat: int
) -> Iterator[tuple[int, float]]:
    """Each length with the median milliseconds of one token after so many, of which `read` are read for real."""
    done = 0
    for length in lengths:
        if method.name == "full":
            yield length, full_decode_ms(method.backbone, text, length, repeat)
            continue
        method.read(text[:, done : min(length, read)])
        done = min(length, read)
        if done < length:
            assert method.bank is not None
            repeat_entries(method.bank, length)
        cache = method.new_cache()
        method(text[:, :PROMPT], cache=cache, use_cache=True, logits_to_keep=1)
        yield length, step_ms(method, text[:, PROMPT:], cache, repeat)


def full_decode_ms(backbone: Backbone, text: torch.Tensor, length: int, repeat: int) -> float:
    """The same with keys and values of all tokens in an ordinary cache."""
    first = text[:, : min(length, FULL_READ)]
    cache = DynamicCache()
    for piece in first.split(512, dim=1):
        backbone.model(piece, **cache_argument(cache), use_cache=True, logits_to_keep=1)
    times = -(-length // first.shape[1])
    for layer in cache.layers:
        layer.keys = layer.keys.repeat(1, 1, times, 1)[:, :, :length].contiguous()
        layer.values = layer.values.repeat(1, 1, times, 1)[:, :, :length].contiguous()
    return step_ms(backbone.model, text[:, PROMPT:], cache, repeat)


def step_ms(model: Callable[..., Any], text: torch.Tensor, cache: Any, repeat: int) -> float:
    """Median milliseconds of one token more in a cache, over `repeat` runs after one that does not count. Each token
    is the text's next one: the same again and again would recall the same again and again."""
    seconds = []
    for run in range(repeat + 1):
        tokens = text[:, run * NEW_TOKENS : (run + 1) * NEW_TOKENS].split(1, dim=1)
        started = time.process_time()
        for token in tokens:
            model(token, **cache_argument(cache), use_cache=True, logits_to_keep=1)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:]) / NEW_TOKENS * 1000


def repeat_entries(bank: Bank, length: int) -> None:
    """Write a row's own entries again until it holds `length` tokens; only for banks with events."""
    if bank.config.event_heads is None:
        raise SystemExit("--read less than a length needs a bank with events; leave it out")
    while bank.num_tokens() < length:
        held = min(bank.num_tokens(), length - bank.num_tokens())
        chunks = bank.rows[0].chunks(0, held)
        sizes = chunks["sizes"].long()
        sizes[-1] -= int(sizes.sum()) - held  # an event may reach over the end
        keys, values = (chunks[name][:, None, :, :, 0] for name in ("keys", "values"))
        cut = EventCut(sizes, chunks["event_keys"])
        bank.write(keys, values, chunks["token_ids"].T.long(), events=[cut])


def real_tokens(backbone: Backbone, data: Path | None, count: int) -> torch.Tensor:
    """The start of the first test book, int64 [1, count]; random tokens without data or tokenizer."""
    if data is None or backbone.tokenizer is None:
        torch.manual_seed(0)
        return torch.randint(5, backbone.view.vocab_size, (1, count))
    book = next(iter(DataSource(data).json_lines("needle", "paul_graham_essays.jsonl.gz")))["text"]
    ids = backbone.tokenizer(book, return_tensors="pt", verbose=False)["input_ids"]
    return ids.repeat(1, -(-count // ids.shape[1]))[:, :count]


def earlier(name: str) -> dict[str, dict[str, float]]:
    """Figures of a run before, by method and length."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text())["decode_ms"] if file.exists() else {}


def save(arguments: argparse.Namespace, backbone: Backbone, figures: dict[str, dict[str, float]]) -> None:
    config = {key: getattr(arguments, key) for key in ("methods", "lengths", "read", "repeat")}
    head: dict[str, Any] = {"backbone": backbone.name, "dtype": str(backbone.dtype), "config": config}
    head["text"] = "random" if arguments.data is None else "essays"
    write_result(
        arguments.name, {**head, "machine": machine(), "decode_ms": figures, "decode_cost": costs(arguments, figures)}
    )


def costs(arguments: argparse.Namespace, figures: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """For docs/methods.md, beside full attention at the same length."""
    full = figures.get("full", {})
    names = {spec.label: spec.name for spec in parse_methods(arguments.methods)}
    return [
        {
            "method": names.get(label, label),
            "label": label,
            "tokens": int(length),
            "seconds": own[length] / 1000,
            "full_seconds": full[length] / 1000,
        }
        for label, own in figures.items()
        if label != "full"
        for length in own
        if length in full
    ]


def report(figures: dict[str, dict[str, float]], lengths: list[int]) -> None:
    rows = []
    for label, own in figures.items():
        cells = [f"{own[str(length)]:.1f}" if str(length) in own else "" for length in lengths]
        flat = own.get("8192") and own.get("131072") and f"{own['131072'] / own['8192'] - 1:+.0%}"
        rows.append([label, *cells, flat or ""])
    print_table(["ms a token", *(f"{length:,}" for length in lengths), "128k over 8k"], rows)


if __name__ == "__main__":
    main()
