"""What storing a bank in fewer bits costs: bytes a token, perplexity, recall of retrieval, and time, by setting.

    python benchmarks/measurements/bank_storage.py --data DATA  # DATA/{books,techdocs,latex_math}/test.jsonl.gz
    python benchmarks/measurements/bank_storage.py --data DATA --documents 1 --max-tokens 4096 \\
        --settings float32,int4+derived

Perplexity: the shipped SideNet with a local window of 1,024 emptied when full, memory of all that left it, on whole
test documents to 8k tokens, all settings on the same tokens. Recall: of the chunks that the SideNet's own queries find
among float32 search keys, how many are found. Time: tokens/s of that scoring, and of generating with 64k tokens of
real keys remembered. A run that was stopped goes on where it was: each document and setting is a line of a file.
Writes benchmarks/results/bank_storage.json.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import KINDS, RESULTS, machine, notice, print_table, write_result

from ltm.backbone import Backbone, load_backbone
from ltm.bank import Bank
from ltm.bench.records_file import Entry, RecordsFile
from ltm.malloc import keep_freed_memory
from ltm.methods import Method
from ltm.methods.opening import open_method
from ltm.tasks.data import DataSource
from ltm.tasks.long_text import LongText, LongTextConfig

SETTINGS = {
    "float32": ("float32", "float32", "float32"),
    "as computed": (None, None, None),
    "int8": ("int8", "int8", "int8"),
    "int8+derived": ("int8", "int8", "derived"),
    "int8 keys": ("int8", "int4", "derived"),
    "int4+int8 search": ("int4", "int4", "int8"),
    "int4": ("int4", "int4", "int4"),
    "int4+derived": ("int4", "int4", "derived"),
}
"""Keys, values, search keys."""
REMEMBERED = 65536
NEW_TOKENS = 16


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    keep_freed_memory()
    backbone = load_backbone(arguments.backbone)
    names = list(SETTINGS) if arguments.settings == "all" else arguments.settings.split(",")
    options = {"kinds": ",".join(KINDS), "documents": arguments.documents, "max_tokens": arguments.max_tokens}
    config = LongTextConfig(**options)
    units = list(LongText(config, DataSource(arguments.data), backbone.tokenizer).units())
    setup = {"backbone": arguments.backbone, "dtype": str(backbone.dtype), "window": arguments.window, **options}
    records_file = RecordsFile(RESULTS / "bank_storage.jsonl", setup)
    with records_file.writing():
        for unit in units:
            for name in names:
                key = f"{name}|{unit.key}"
                if key not in records_file.entries:
                    method = method_with(backbone, name, arguments.window)
                    started = time.perf_counter()
                    (record,) = unit.run(method)
                    records_file.add(Entry(key, unit.cost, record["tokens"], time.perf_counter() - started, [record]))
                    notice(f"{key}: perplexity {math.exp(record['nats'] / record['tokens']):.4f}")
    figures = {name: perplexities(records_file, name) for name in names}
    search = searches(backbone, units, names, arguments.window)
    for name in names:
        figures[name] |= search[name]
    report(figures)
    write_result("bank_storage", {"config": setup, "machine": machine(), "results": figures})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with books, techdocs and latex_math")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--documents", type=int, default=4, help="test documents of each kind")
    parser.add_argument("--max-tokens", type=int, default=8192, help="most tokens of each document")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--settings", default="all", help=f"with commas, of {', '.join(SETTINGS)}")
    return parser.parse_args()


def method_with(backbone: Backbone, name: str, window: int) -> Method:
    """The shipped SideNet with a memory stored in one way."""
    keys, values, search = SETTINGS[name]
    storages = {"key_storage": keys, "value_storage": values, "search_storage": search}
    return open_method("longmem", backbone, local_window=window, stride=window, **storages)


def perplexities(records_file: RecordsFile, name: str) -> dict[str, Any]:
    """Over all documents that are done, by kind and together."""
    entries = [entry for key, entry in records_file.entries.items() if key.startswith(f"{name}|")]
    records = [record for entry in entries for record in entry.records]
    by_kind = {kind: [r for r in records if r["kind"] == kind] for kind in sorted({r["kind"] for r in records})}
    nats = {
        kind: (sum(r["nats"] for r in own), sum(r["tokens"] for r in own))
        for kind, own in {**by_kind, "all": records}.items()
    }
    return {
        "tokens": nats["all"][1],
        "perplexity": {kind: math.exp(total / tokens) for kind, (total, tokens) in nats.items()},
        "nats": {record["id"]: record["nats"] for record in records},
        "scored_tokens_per_s": sum(e.tokens for e in entries) / sum(e.seconds for e in entries),
    }


@torch.no_grad()
def searches(backbone: Backbone, units: list[Any], names: list[str], window: int) -> dict[str, dict[str, Any]]:
    """Recall, bytes and generation of each setting, on the first document: its first tokens are remembered, and the
    SideNet's own queries over the rest are asked."""
    ids = units[0].run.keywords["ids"]
    past, present = ids[: -min(window, len(ids) // 4)], ids[-min(window, len(ids) // 4) :]
    wanted: torch.Tensor | None = None
    found = {}
    reference = method_with(backbone, "float32", window)
    reference.read(past[None])
    with recorded_queries() as queries:
        reference(present[None], logits_to_keep=1)
    for name in ["float32", *(name for name in names if name != "float32")]:
        method = method_with(backbone, name, window)
        method.read(past[None])
        assert method.bank is not None
        num_chunks = method.method_config.retrieved_tokens // method.method_config.chunk_size
        slots = method.bank.search(queries[0], num_chunks).slots
        wanted = slots if wanted is None else wanted
        recall = (wanted[..., None] == slots[..., None, :]).any(dim=-1).float().mean()
        found[name] = {"recall": float(recall), **sizes(method.bank), **generation(method, present)}
        notice(f"{name}: {found[name]}")
    return found


@contextmanager
def recorded_queries() -> Iterator[list[torch.Tensor]]:
    """The queries that are searched inside the block."""
    queries: list[torch.Tensor] = []
    search = Bank.search

    def recording(bank: Bank, asked: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        queries.append(asked)
        return search(bank, asked, *arguments, **options)

    Bank.search = recording  # type: ignore[method-assign]
    try:
        yield queries
    finally:
        Bank.search = search  # type: ignore[method-assign]


def sizes(bank: Bank) -> dict[str, float]:
    """Bytes a token of what is held: in memory, and saved (manifest and file headers included, no text is there)."""
    with tempfile.TemporaryDirectory() as folder:
        bank.save(folder, compact=True)
        on_disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return {
        "bytes_per_token": bank.num_chunks() * bank.layout.bytes_per_chunk / bank.num_tokens(),
        "disk_bytes_per_token": on_disk / bank.num_tokens(),
    }


def generation(method: Method, present: torch.Tensor) -> dict[str, float]:
    """Tokens/s one by one after the present with REMEMBERED tokens in memory: what is there, again and again."""
    bank = method.bank
    assert bank is not None
    while bank.num_tokens() < REMEMBERED:
        bank.rows[0].append({**bank.rows[0].chunks(0, bank.num_chunks())}, bank.num_tokens())
    stream = method.new_cache()
    method(present[None, :64], cache=stream, use_cache=True, logits_to_keep=1)
    token, seconds = present[None, :1], []
    for _ in range(NEW_TOKENS + 1):
        started = time.perf_counter()
        method(token, cache=stream, use_cache=True, logits_to_keep=1)
        seconds.append(time.perf_counter() - started)
    method.bank = None
    return {"generated_tokens_per_s": 1 / statistics.median(seconds[1:]), "remembered": bank.num_tokens()}


def report(figures: dict[str, dict[str, Any]]) -> None:
    base = figures.get("float32", next(iter(figures.values())))["perplexity"]["all"]
    rows = [
        [
            name,
            f"{found['bytes_per_token']:.0f}",
            f"{found['disk_bytes_per_token']:.0f}",
            f"{found['perplexity']['all']:.4f}",
            f"{100 * (found['perplexity']['all'] / base - 1):+.3f}%",
            f"{found['recall']:.3f}",
            f"{found['scored_tokens_per_s']:,.0f}",
            f"{found['generated_tokens_per_s']:.1f}",
        ]
        for name, found in figures.items()
    ]
    header = ["setting", "bytes/token", "on disk", "perplexity", "change", "recall", "scored/s", "generated/s, 64k"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
