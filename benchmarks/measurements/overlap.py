"""How much of each test document stands in the training split: python benchmarks/measurements/overlap.py --data data

Runs of 13 words (lower case, letters and digits) that occur anywhere in the training documents of books, techdocs or
latex_math, as a share of those of the test documents that the tables measure. Writes benchmarks/results/overlap.json.
"""

from __future__ import annotations

import argparse
import re
from itertools import islice
from pathlib import Path

import numpy as np
from common import KINDS, machine, notice, print_table, write_result

from ltm.tasks.data import DataSource

MEASURED = (*KINDS, "techdocs_other", "latex_other")
WORDS = 13
FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Of the hash of a run: odd, so that no word is lost."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=4, help="first test documents of each kind")
    arguments = parser.parse_args()
    data, numbers = DataSource(arguments.data), dict[str, int]()
    tests = {}
    for kind in MEASURED:
        rows = islice(data.json_lines(kind, "test.jsonl.gz"), arguments.documents)
        tests[kind] = {row["id"]: runs(row["text"], numbers) for row in rows}
    asked = np.unique(np.concatenate([found for own in tests.values() for found in own.values()]))
    seen = np.zeros(len(asked), dtype=bool)
    for kind in KINDS:
        for row in data.json_lines(kind, "train.jsonl.gz"):
            found = runs(row["text"], numbers)
            places = np.searchsorted(asked, found).clip(max=len(asked) - 1)
            seen[places[asked[places] == found]] = True
        notice(f"{kind}: {seen.sum():,} runs of the test documents seen so far")
    shares = {
        kind: {name: float(seen[np.searchsorted(asked, found)].mean()) for name, found in own.items()}
        for kind, own in tests.items()
    }
    write_result("overlap", {"machine": machine(), "words": WORDS, "train": list(KINDS), "results": shares})
    print_table(["kind", "worst"], [[kind, f"{max(own.values()):.2%}"] for kind, own in shares.items()])


def runs(text: str, numbers: dict[str, int]) -> np.ndarray:
    """A hash of each run of WORDS words, uint64 [runs]; numbers: of each word, the same for all texts."""
    words = re.findall(r"[^\W_]+", text.lower())
    ids = np.array([numbers.setdefault(word, len(numbers) + 1) for word in words], dtype=np.uint64)
    count = max(len(ids) - WORDS + 1, 0)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(WORDS):
        hashes = hashes * FACTOR + ids[place : place + count] * ids[place : place + count]
    return hashes


if __name__ == "__main__":
    main()
