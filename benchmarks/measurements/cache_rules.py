"""Rules that keep a budget of keys and values, beside the window, sinks and the whole context, on long documents.

    python benchmarks/measurements/cache_rules.py --data DATA   # half an hour of one core, three documents

Each document is scored as one stream; perplexity is of the tokens after the first 1,024, where every budget has had to
let go. Differences to the whole context are paired over pieces of 512 tokens, with a bootstrap over pieces: what they
say is of these documents. Bytes are of tensors held at the end (a window holds between half of its tokens and all),
seconds of CPU time, for scoring and for a token decoded at the end, since other things may run beside it. Writes
benchmarks/results/cache_rules.json after each figure; those that it has for the same settings are not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from common import KINDS, RESULTS, machine, notice, print_table, write_result
from torch import Tensor
from torch.nn.functional import cross_entropy

from ltm.backbone import Backbone, load_backbone
from ltm.data.tokens import token_ids
from ltm.malloc import keep_freed_memory
from ltm.methods import create_method
from ltm.tasks.data import DataSource
from ltm.tasks.intervals import bootstrap_interval

NAME = "cache_rules"
BUDGETS = (256, 512, 1024)
FIRST, PIECE, DECODED = 1024, 512, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--data", required=True, help="the folder of local data")
    parser.add_argument("--documents", type=int, default=1, help="of each kind of text")
    parser.add_argument("--tokens", type=int, default=8192, help="of each document; the last 8 are decoded one by one")
    arguments = parser.parse_args()
    keep_freed_memory()
    backbone = load_backbone(arguments.backbone)
    config = {"backbone": arguments.backbone, "dtype": str(backbone.dtype), "tokens": arguments.tokens}
    found = done_before(config)
    for name, ids in documents(backbone, arguments):
        found.setdefault(name, {})
        for label, method, options in sides():
            if label not in found[name]:
                found[name][label] = scored(backbone, method, options, ids)
                kept = {"machine": machine(), "documents": found, "results": summary(found)}
                write_result(NAME, {"config": config, **kept})
                notice(f"{name}, {label}: {found[name][label]}")
    report(summary(found))


def sides() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is compared: label, method and options; the whole context first."""
    yield "full", "full", {}
    for budget in BUDGETS:
        for name in ("window", "sinks"):
            yield f"{name} {budget}", name, {"local_window": budget}
        for name in ("tova", "h2o"):
            yield f"{name} {budget}", name, {"budget": budget}
    for name in ("tova", "h2o"):
        yield f"{name} 512, by order", name, {"budget": 512, "positions": "cache"}


def documents(backbone: Backbone, arguments: argparse.Namespace) -> Iterator[tuple[str, Tensor]]:
    """The first long enough documents of each kind, int64 [tokens]."""
    for kind in KINDS:
        taken = 0
        for document in DataSource(arguments.data).json_lines(kind, "test.jsonl.gz"):
            ids = token_ids(backbone.tokenizer, document["text"][: 8 * arguments.tokens])[: arguments.tokens]
            if len(ids) == arguments.tokens:
                yield f"{kind}: {document['id']}", torch.as_tensor(ids)
                taken += 1
            if taken == arguments.documents:
                break


@torch.no_grad()
def scored(backbone: Backbone, name: str, options: dict[str, Any], ids: Tensor) -> dict[str, Any]:
    """Nats of each piece after the first tokens, bytes, seconds, and milliseconds of a decoded token."""
    stream = create_method(name, backbone, **options).stream(memory=None)
    size = PIECE if stream.window is None else min(PIECE, stream.window)
    started, losses, before = time.process_time(), [], None
    for piece in ids[:-DECODED].split(size):
        logits = stream.push(piece[None])[0].float()
        predicted = logits if before is None else torch.cat((before, logits))
        losses.append(cross_entropy(predicted[:-1], piece if before is not None else piece[1:], reduction="none"))
        before = logits[-1:]
    seconds, nats = time.process_time() - started, torch.cat((torch.zeros(1), *losses))[FIRST:]
    held, started = stream.nbytes, time.process_time()
    for token in ids[-DECODED:]:
        stream.push(token[None, None], keep=1)
    step = 1000 * (time.process_time() - started) / DECODED
    pieces = [round(float(piece.mean()), 5) for piece in nats.split(PIECE)]
    return {"nats": pieces, "bytes": held, "seconds": round(seconds, 2), "decode_ms": round(step, 1)}


def summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of each side over the documents that all have: perplexity, what is lost to the whole context, bytes, seconds."""
    whole = [sides for sides in found.values() if len(sides) == max(map(len, found.values()))]
    rows = {}
    for label in whole[0]:
        own = [sides[label] for sides in whole]
        nats = [value for side in own for value in side["nats"]]
        full = [value for sides in whole for value in sides["full"]["nats"]]
        lost = bootstrap_interval([a - b for a, b in zip(nats, full, strict=True)])
        rows[label] = {
            "perplexity": round(math.exp(statistics.fmean(nats)), 3),
            "nats_lost": [None if value is None else round(value, 4) for value in lost],
            "bytes": max(side["bytes"] for side in own),
            "seconds": round(statistics.fmean(side["seconds"] for side in own), 1),
            "decode_ms": round(statistics.median(side["decode_ms"] for side in own), 1),
            "documents": len(own),
        }
    return rows


def done_before(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the result file has for the same settings."""
    file = RESULTS / f"{NAME}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    return before["documents"] if before.get("config") == config else {}


def report(rows: dict[str, Any]) -> None:
    def interval(low: float | None, high: float | None) -> str:
        return "" if low is None else f"{low:+.3f} to {high:+.3f}"

    table = [
        [label, f"{row['perplexity']:.2f}", f"{row['nats_lost'][0]:+.3f}", interval(*row["nats_lost"][1:])]
        + [f"{row['bytes'] / 1e6:.1f}", f"{row['seconds']:.0f}", f"{row['decode_ms']:.0f}"]
        for label, row in rows.items()
    ]
    print_table(["method", "perplexity", "nats lost", "95%", "MB", "seconds", "ms a token"], table)


if __name__ == "__main__":
    main()
