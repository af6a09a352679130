"""How soon an answer starts, by how much was read before: finding passages, and the first word.

    python benchmarks/measurements/ask_speed.py --data data

Articles of SQuAD are read into one memory of LongMem with SmolLM2-135M. At each size the same questions are asked of
that memory (recall `both`), of an empty one, and of an empty one that is given the same passages. The three take turns
question by question, so that whatever else the machine does is shared. One core. Writes
benchmarks/results/ask_speed.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common import machine, print_table, write_result

from ltm.console import notice
from ltm.tasks.ask.config import AskConfig
from ltm.tasks.ask.readings import AskedReading
from ltm.tasks.ask.texts import many
from ltm.tasks.data import DataSource
from ltm.text.session import Session

WAYS = ("both", "empty", "empty, the same passages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokens", default="4096,65536,262144", help="sizes of the memory, with commas")
    parser.add_argument("--questions", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = sorted(int(size) for size in arguments.tokens.split(","))
    session, empty = (Session.open(method="longmem", memory_size=sizes[-1]) for _ in range(2))
    config = AskConfig(max_tokens=sizes[-1], questions=arguments.questions)
    (unit,) = many(config, DataSource(arguments.data), session.tokenizer)
    (reading,) = unit.readings
    found = [
        {"tokens read": tokens, **measured(session, empty, [one.question for one in reading.asked])}
        for tokens in read(session, reading, sizes)
    ]
    print_table(
        list(found[0]),
        [[f"{value:,.2f}" if value < 10 else f"{value:,.0f}" for value in row.values()] for row in found],
    )
    write_result("ask_speed", {"config": vars(arguments) | {"data": "data"}, "machine": machine(), "results": found})


def read(session: Session, reading: AskedReading, sizes: Sequence[int]) -> Iterator[int]:
    """Read document after document; at each size, or at the end, how many tokens were read."""
    wanted = list(sizes)
    for name, text in reading.documents:
        session.read(text, name)
        tokens = session.bank.num_tokens(0)
        if tokens >= wanted[0]:
            notice(f"{tokens:,} tokens read")
            yield tokens
            wanted.pop(0)
        if not wanted:
            return
    yield session.bank.num_tokens(0)


def measured(session: Session, empty: Session, questions: Sequence[str]) -> dict[str, Any]:
    """Medians over questions, milliseconds, and the two ratios."""
    session.recall.find(questions[0])  # what is new is cut and embedded once
    finding, starts = [], {way: list[float]() for way in WAYS}
    for question in questions:
        begun = time.perf_counter()
        shown = session.recall.find(question).shown
        finding.append(time.perf_counter() - begun)
        given = [passage.text for passage in shown]
        starts["both"].append(first_word(session, question))
        starts["empty"].append(first_word(empty, question))
        starts["empty, the same passages"].append(first_word(empty, question, given=given))
    medians = {f"first word, {way}, ms": 1000 * statistics.median(own) for way, own in starts.items()}
    both, *others = medians.values()
    ratios = {f"both / {way}": both / other for way, other in zip(WAYS[1:], others, strict=True)}
    return {"finding, ms": 1000 * statistics.median(finding), **medians, **ratios}


def first_word(session: Session, question: str, **how: Any) -> float:
    """Seconds until the first token of the answer; two are made, for the last one ends the stream."""
    begun, came = time.perf_counter(), list[float]()
    session.ask(question, max_new_tokens=2, on_text=lambda text: came.append(time.perf_counter() - begun), **how)
    return came[0] if came else time.perf_counter() - begun


if __name__ == "__main__":
    main()
