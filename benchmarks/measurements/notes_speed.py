"""What a store of notes costs: adding, embedding, searching, forgetting, opening, at ten thousand notes.

    python benchmarks/measurements/notes_speed.py --data data --folder SCRATCH

Notes are passages of about 100 words of the test books, one event a book. Encoders are timed on 256 of them, and the
search goes through random vectors as wide as MiniLM's.
Milliseconds on one thread, of the wall (medians; a commit waits for the disk) and of the process alone. Writes
benchmarks/results/notes_speed.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, print_table, write_result

from ltm.notes.encoder import load_encoder
from ltm.notes.row import NoteRow
from ltm.notes.splitting import passages
from ltm.notes.store import NoteStore
from ltm.tasks.data import DataSource

QUERIES = 50
Cost = dict[str, float]
"""Milliseconds: {"wall": ..., "process": ...}."""
EMBEDDED = 256
"""Notes that MiniLM is timed on."""


class RandomEncoder:
    """Unit vectors as wide as MiniLM's that say nothing, for the time that a search of theirs takes."""

    name, identity, width = "random", "random/384", 384

    def embed(self, texts: Any) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(len(texts), self.width), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the stores are made, and removed")
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    books = [row["text"] for row in DataSource(arguments.data).json_lines("books", "test.jsonl.gz")]
    path = arguments.folder / "notes_speed"
    shutil.rmtree(path, ignore_errors=True)
    figures = measured(path, books, arguments.count)
    shutil.rmtree(path)
    config = {"notes": arguments.count, "load": os.getloadavg()[0]}
    write_result("notes_speed", {"config": config, "machine": machine(), **figures})
    print_table(
        ["what", "wall ms", "process ms"],
        [[name, f"{own['wall']:,.3f}", f"{own['process']:,.3f}"] for name, own in figures["milliseconds"].items()],
    )


def measured(path: Path, books: list[str], count: int) -> dict[str, Any]:
    """Milliseconds of each thing, by name, and bytes of a note on the disk."""
    figures: dict[str, Cost] = {}
    store = NoteStore.open(path)
    row = store.row(0, RandomEncoder)
    figures["add, a book a transaction"] = milliseconds(lambda: add_books(row, books, count), count)
    figures["write a vector"] = milliseconds(row.embed, count)
    texts = [note.text for note in row.notes(ids=list(range(EMBEDDED)))]
    minilm, hashing = load_encoder("minilm"), load_encoder("hash")
    figures["embed by hashing, 100 words"] = milliseconds(lambda: hashing.embed(texts), EMBEDDED)
    figures["embed by MiniLM, 100 words"] = milliseconds(lambda: minilm.embed(texts), EMBEDDED)
    queries = [" ".join(text.split()[:8]) for text in texts[:QUERIES]]
    figures["embed a question of 8 words by MiniLM"] = median(lambda query: minilm.embed([query]), queries)
    row.search(queries[0], 5)
    num_bytes = store.database.nbytes / count
    for by in ("words", "meaning", "hybrid"):
        figures[f"search by {by}, without embedding the question"] = median(
            lambda query, by=by: row.search(query, 5, by=by), queries
        )
    events = [row.append(f"Turn {number}: {texts[number]}", source=f"turn {number}") for number in range(QUERIES)]
    figures["append and add, a transaction each"] = median(lambda event: row.add(event.text, event), events)
    figures["forget a source of one note"] = median(lambda event: row.forget(event.source), events[:10])
    figures["select a row (a copy)"] = milliseconds(lambda: store.select([0]))
    figures["save to another directory"] = milliseconds(lambda: store.save(path / "copy"))
    store.close()
    opened: list[NoteRow] = []
    figures["open"] = milliseconds(lambda: opened.append(NoteStore.open(path).row(0, RandomEncoder)))
    figures["first search by meaning after opening"] = milliseconds(
        lambda: opened[0].search("a whale", 5, by="meaning")
    )
    shutil.rmtree(path / "copy")
    return {"bytes_per_note": num_bytes, "milliseconds": figures}


def add_books(row: NoteRow, books: list[str], count: int) -> None:
    """Passages as notes, a book after another until there are enough."""
    left = count
    for number, text in enumerate(endless(books)):
        with row.transaction():
            event = row.append(text, source=f"book {number}", role="document")
            for start, end in passages(text, 100)[:left]:
                row.add(text[start:end], event.cite(start, end))
        left = count - len(row)
        if not left:
            return


def endless(books: list[str]) -> Iterator[str]:
    while True:
        yield from books


def milliseconds(work: Callable[[], Any], among: int = 1) -> Cost:
    """What a piece of work costs, shared among so many things."""
    wall, process = time.perf_counter(), time.process_time()
    work()
    ends = {"wall": time.perf_counter() - wall, "process": time.process_time() - process}
    return {name: seconds * 1000 / among for name, seconds in ends.items()}


def median(work: Callable[[Any], Any], of: list[Any]) -> Cost:
    """Of the same work on each."""
    costs = [milliseconds(partial(work, one)) for one in of]
    return {name: statistics.median(cost[name] for cost in costs) for name in costs[0]}


if __name__ == "__main__":
    np.random.seed(0)
    torch.manual_seed(0)
    main()
