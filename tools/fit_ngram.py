"""Fit the n-gram cache's weights, one for each suffix length and range of counts, and write them into the package.

    python tools/fit_ngram.py --data data

On the first validation document of each kind, as far as `--max-tokens`, with the SideNet that is shipped, its memory
off, in separate windows of 1,024: what the cache is measured beside. The model's probability of each token and what
every suffix of its past predicted of it are taken once; the weights that make these tokens likeliest are then found by
Adam in seconds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ltm
from ltm import facts
from ltm.console import notice
from ltm.data.tokens import token_blocks
from ltm.methods import Method
from ltm.methods.baselines.ngram.counts import count_bucket, counts_by_length, suffix_matches
from ltm.methods.opening import open_method
from ltm.streams.scoring import score_stream
from ltm.tasks.data import DataSource

WEIGHTS = Path(ltm.__file__).parent / "methods" / "baselines" / "ngram" / "weights.py"
RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "ngram_weights.json"
KINDS = ("books", "techdocs", "latex_math")
LENGTHS, BUCKETS = 16, 6
START, MOST = 0.1, 0.98
"""Where each weight starts (and stays, if no text asks for it), and the most it may be."""
STEPS = 1500
SMOOTHING = 1e-5
"""Of the squared difference of neighbours' logits, against nats a token: most long suffixes were seen a few times."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--max-tokens", type=int, default=8192)
    arguments = parser.parse_args()
    backbone = ltm.load_backbone("smollm2-135m")
    method = open_method("longmem", backbone, local_window=1024, stride=1024, use_memory=False)
    documents = {
        kind: first_document(DataSource(arguments.data), kind, backbone, arguments.max_tokens) for kind in KINDS
    }
    evidence = {}
    for kind, (name, ids) in documents.items():
        notice(f"{kind}: {name}, {len(ids):,} tokens")
        evidence[kind] = (*evidence_of(ids.numpy()), model_nats(method, ids))
    weights = fit(list(evidence.values()))
    found = {
        kind: {"without": float(nats.mean()), "with": float(losses(weights, *own).mean())}
        for kind, own in evidence.items()
        for nats in [own[-1]]
    }
    names = {kind: name for kind, (name, _) in documents.items()}
    write_module(weights, names)
    made = {"command": "python tools/fit_ngram.py --data data", "machine": facts.machine(), "commit": facts.commit()}
    RESULT.write_text(json.dumps({**made, "documents": names, "nats a token": found}, indent=2) + "\n")
    notice(f"wrote {RESULT}")


def first_document(data: DataSource, kind: str, backbone: ltm.Backbone, most: int) -> tuple[str, Tensor]:
    row = next(data.json_lines(kind, "validation.jsonl.gz"))
    block = next(token_blocks(backbone.tokenizer, row["text"], most))
    return row["id"], block.ids


def model_nats(method: Method, ids: Tensor) -> Tensor:
    """The model's nats of each token but the first, float64 [tokens - 1]."""
    method.reset()
    return score_stream(method, ids).double()


def evidence_of(tokens: np.ndarray) -> tuple[Tensor, Tensor]:
    """Of each token but the first and each suffix length: which weight its count has (-1: it never stood before), and
    the share of its followers that were this token; [tokens - 1, LENGTHS] each."""
    buckets = np.full((len(tokens) - 1, LENGTHS), -1)
    hits = np.zeros((len(tokens) - 1, LENGTHS))
    for end in range(len(tokens) - 1):
        places, lengths = suffix_matches(tokens, end, end, LENGTHS)
        counts = counts_by_length(lengths, LENGTHS)
        right = counts_by_length(lengths[tokens[places + 1] == tokens[end + 1]], LENGTHS)
        buckets[end] = np.where(counts > 0, count_bucket(counts, BUCKETS), -1)
        hits[end] = right / np.maximum(counts, 1)
    return torch.from_numpy(buckets), torch.from_numpy(hits)


def losses(weights: Tensor, buckets: Tensor, hits: Tensor, nats: Tensor) -> Tensor:
    """Nats of each token under the mixture; weights [LENGTHS, BUCKETS]."""
    mixed = (-nats).exp()
    for length in range(LENGTHS):
        own = weights[length][buckets[:, length].clamp(min=0)] * (buckets[:, length] >= 0)
        mixed = (1 - own) * mixed + own * hits[:, length]
    return -mixed.clamp(min=1e-30).log()


def fit(evidence: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The weights with the least nats a token, each kind counting the same, and none far from its neighbours."""
    start = torch.full((LENGTHS, BUCKETS), START / MOST, dtype=torch.float64)
    raw = torch.logit(start).requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.stack([losses(MOST * raw.sigmoid(), *own).mean() for own in evidence]).mean()
        rough = sum(raw.diff(dim=axis).square().sum() for axis in (0, 1))
        (loss + SMOOTHING * rough).backward()
        optimizer.step()
    return (MOST * raw.sigmoid()).detach()


def write_module(weights: Tensor, documents: dict[str, str]) -> None:
    rows = "".join("    (" + ", ".join(f"{value:.4f}" for value in row) + "),\n" for row in weights.tolist())
    named = "\n".join(f"    {kind}: {name}" for kind, name in documents.items())
    WEIGHTS.write_text(
        '"""How much a suffix\'s counts weigh beside everything shorter: written by tools/fit_ngram.py.\n'
        f'\nFitted on one validation document of each kind:\n\n{named}\n"""\n\nfrom __future__ import annotations\n\n'
        f"WEIGHTS: tuple[tuple[float, ...], ...] = (\n{rows})\n"
        '"""A row for each suffix length from 1; in it one for a count of 1, 2, 3-4, 5-8, 9-16 and more."""\n'
    )


if __name__ == "__main__":
    main()
