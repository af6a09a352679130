"""Quest beside its own dense pass: time of a decoding step by length of the context, in one run.

    python benchmarks/measurements/quest_speed.py --data DATA
        # 8k and 32k: some minutes on one core; real weights, a book

All sides but the last are the same method on the same kind of cache: dense with a budget that holds everything (so that
Quest's bypass is full attention, without copying the cache), Quest as configured, and Quest with pages shared by the
heads that share keys. `full` is the backbone on transformers' own cache, which copies all of it for each token. The
context is the first tokens of a book, read for real, their keys and values repeated until the length is reached: time
hardly depends on what they are, and reading 32k tokens takes half an hour on one core. Sides take turns, step by step;
figures are medians of seconds of CPU time, since other things may run beside it. Attention alone is timed apart, on the
queries of one step, over the layers that choose pages. Writes benchmarks/results/quest_speed.json after each length;
lengths that are in it for the same settings are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import RESULTS, machine, notice, print_table, write_result
from torch import Tensor

from ltm.attention import LocalView, Plugin, attach
from ltm.backbone import Backbone, load_backbone
from ltm.compat import DynamicCache, cache_argument
from ltm.data.tokens import token_ids
from ltm.malloc import keep_freed_memory
from ltm.methods.attention.quest import Quest, QuestConfig
from ltm.methods.attention.quest.reader import PageReader
from ltm.streams.pages import Columns, PagedCache
from ltm.tasks.data import DataSource

NAME = "quest_speed"
SIDES = ("dense", "quest", "quest, shared pages", "full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--lengths", default="8192,32768")
    parser.add_argument("--token-budget", type=int, default=QuestConfig.token_budget)
    parser.add_argument("--read", type=int, default=2048, help="tokens read for real, then repeated")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--data", default=None, help="the folder of local data; random tokens without it")
    parser.add_argument("--name", default=NAME, help="of the result file")
    arguments = parser.parse_args()
    keep_freed_memory()
    backbone = load_backbone(arguments.backbone)
    settings = {"token_budget": arguments.token_budget, "read": arguments.read, "steps": arguments.steps}
    text = "random tokens" if arguments.data is None else "a book"
    config = {**settings, "backbone": arguments.backbone, "dtype": str(backbone.dtype), "text": text}
    figures = done_before(arguments.name, config)
    source = first_tokens(backbone, arguments.data, arguments.read)
    for length in map(int, arguments.lengths.split(",")):
        if str(length) in figures:
            notice(f"{length:,}: done before")
            continue
        figures[str(length)] = at_length(backbone, source, length, arguments.token_budget, arguments.steps)
        notice(f"{length:,}: {figures[str(length)]['step_seconds']}")
        costs = decode_cost(figures)
        write_result(arguments.name, {"config": config, "machine": machine(), "decode_cost": costs, "results": figures})
    report(figures)


def decode_cost(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """What docs/methods.md prints; full attention is the dense pass, on the same kind of cache."""
    return [
        {
            "method": "quest",
            "label": name,
            "tokens": int(length),
            "seconds": found["step_seconds"][name],
            "full_seconds": found["step_seconds"]["dense"],
        }
        for length, found in figures.items()
        for name in ("quest", "quest, shared pages")
    ]


def done_before(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The figures of an earlier run with the same settings."""
    file = RESULTS / f"{name}.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    return found["results"] if found.get("config") == config else {}


def first_tokens(backbone: Backbone, data: str | None, count: int) -> Tensor:
    """int64 [1, count]."""
    if data is None:
        return torch.randint(5, backbone.view.vocab_size, (1, count), generator=torch.Generator().manual_seed(0))
    row = next(iter(DataSource(data).json_lines("books", "test.jsonl.gz")))
    return token_ids(backbone.tokenizer, row["text"][: 20 * count])[None, :count]


@torch.no_grad()
def at_length(backbone: Backbone, source: Tensor, length: int, budget: int, steps: int) -> dict[str, Any]:
    """Seconds of a step of each side after `length` tokens, and of its attention alone."""
    methods = {
        "dense": Quest(backbone, QuestConfig(token_budget=2 * length, extrapolate=True)),
        "quest": Quest(backbone, QuestConfig(token_budget=budget, extrapolate=True)),
        "quest, shared pages": Quest(backbone, QuestConfig(token_budget=budget, extrapolate=True, share_pages=True)),
    }
    past, row = fill(methods["quest"], source, length), torch.zeros(1, dtype=torch.long)
    streams = {name: past.fork(row) for name in methods}
    native = DynamicCache()
    for index in range(backbone.view.num_layers):
        native.update(past.layer(index).keys, past.layer(index).values, index)
    token = source[:, :1]

    def step(name: str) -> None:
        if name == "full":
            backbone.model(token, **cache_argument(native), use_cache=True, logits_to_keep=1)
        else:
            methods[name](token, cache=streams[name], use_cache=True, logits_to_keep=1, memory_rows=row)

    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(steps + 1):
        for offset in range(len(SIDES)):
            name = SIDES[(turn + offset) % len(SIDES)]
            seconds[name].append(seconds_of(lambda name=name: step(name)))
    step_seconds = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    attention = attention_seconds(methods, streams["quest"], token, steps)
    return {
        "step_seconds": step_seconds,
        "attention_seconds": attention,
        "tokens_per_second": {name: 1 / value for name, value in step_seconds.items()},
        "step, dense / this": {name: step_seconds["dense"] / value for name, value in step_seconds.items()},
        "attention, dense / this": {name: attention["dense"] / value for name, value in attention.items()},
        "bytes_per_token": bytes_per_token(past, length),
        "all_step_seconds": {name: found[1:] for name, found in seconds.items()},
    }


def fill(method: Quest, source: Tensor, length: int) -> PagedCache:
    """A past of `length` tokens: the source as it was read, again and again."""
    method.read(source)
    read, past, times = method._past_cache(), method.new_cache(), -(-length // source.shape[1])
    past.begin(1, source.device)
    past.reading = True
    past.append(source.repeat(1, times)[:, :length], torch.ones(1, length, dtype=torch.bool))
    past.valid = torch.ones(1, length, dtype=torch.bool)
    for index in range(method.backbone.view.num_layers):
        layer = read.layer(index)
        keys, values = (states.repeat(1, 1, times, 1)[:, :, :length] for states in (layer.keys, layer.values))
        past.caches[0].update(keys, values, index)
    past.reading = False
    method.reset()
    past.update_bounds(range(method.method_config.dense_layers, method.backbone.view.num_layers))
    return past


class Capture(Plugin):
    """Keeps what each layer's attention was asked in one step."""

    def __init__(self, layers: range):
        self.local_layers = layers
        self.found: dict[int, LocalView] = {}

    def attend_local(self, layer: int, local: LocalView) -> None:
        self.found[layer] = local


def attention_seconds(methods: dict[str, Quest], stream: PagedCache, token: Tensor, steps: int) -> dict[str, float]:
    """Median seconds of the attention of one step, over all layers that choose pages."""
    backbone, config = methods["quest"].backbone, methods["quest"].method_config
    layers = range(config.dense_layers, backbone.view.num_layers)
    columns = Columns(torch.cat((stream.valid, torch.ones(1, 1, dtype=torch.bool)), dim=1))
    capture, positions = Capture(layers), columns.places[:, -1:]
    with attach(backbone.view, capture):
        backbone.model(token, position_ids=positions, **cache_argument(stream.caches[0]), logits_to_keep=1)
    found = capture.found
    sides: dict[str, Callable[[], object]] = {"dense": lambda: [local.output() for local in found.values()]}
    for name in ("quest", "quest, shared pages"):
        reader = PageReader(methods[name].method_config, layers, stream, columns, 1)
        sides[name] = lambda reader=reader: [reader.attend_local(layer, local) for layer, local in found.items()]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(steps + 1):
        for name, side in sides.items():
            seconds[name].append(seconds_of(side))
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def bytes_per_token(past: PagedCache, length: int) -> dict[str, float]:
    """Of all layers together: keys and values, and the bounds of their pages."""
    layers = past.caches[0].layers
    kept = sum(layer.keys.element_size() * (layer.keys.numel() + layer.values.numel()) for layer in layers)
    bounds = [(layer.pages.bounds, layer.page_size) for layer in layers if layer.pages.bounds is not None]
    per_token = sum(b.element_size() * b[:, :, : -(-length // size)].numel() for b, size in bounds) / length
    return {"keys_and_values": kept / length, "bounds": per_token}


def seconds_of(side: Callable[[], object]) -> float:
    started = time.process_time()
    side()
    return time.process_time() - started


def report(figures: dict[str, dict[str, Any]]) -> None:
    rows = []
    for length, found in sorted(figures.items(), key=lambda item: int(item[0])):
        for name in SIDES:
            alone, ratio = found["attention_seconds"].get(name), found["attention, dense / this"].get(name)
            row = [f"{int(length):,} {name}", f"{1000 * found['step_seconds'][name]:.1f}"]
            row += [f"{found['tokens_per_second'][name]:.2f}", f"{found['step, dense / this'][name]:.2f} x"]
            rows.append(
                [*row, *("–" if alone is None else f"{1000 * alone:.1f}", "" if ratio is None else f"{ratio:.2f} x")]
            )
    header = ["context", "step, ms", "tokens/s", "dense / this", "attention alone, ms", "dense / this"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
