"""Facts that a long text says once, asked of plain retrieval, of the window and of the whole context.

    python benchmarks/measurements/rag_facts.py --data data

Readings and questions are made as the recall task makes its variants facts and reworded: a fact is asked for by the
beginning of its own sentence, or of another wording of it. Retrieval takes the text in with MiniLM and BM25, looks the
question up, and puts the passages it finds, the best one last, where the window has the text's end. Scores are that
task's: the answer stands in what is written greedily, and it is the likeliest of ten. Writes
benchmarks/results/rag_facts.json.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from common import machine, print_table, write_result

from ltm.backbone import load_backbone
from ltm.methods import create_method
from ltm.methods.retrieval.rag import Rag, RagConfig
from ltm.notes.store import NoteStore
from ltm.tasks.data import DataSource
from ltm.tasks.intervals import wilson_interval
from ltm.tasks.recall import ask
from ltm.tasks.recall_text import Haystack, PlantedText, facts_reading
from ltm.tasks.scoring import text_tokens
from ltm.text.means import Means

DEPTHS = [0, 25, 50, 75, 100]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384, 65536])
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--backbone", default="smollm2-135m")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(arguments.backbone)
    rows = DataSource(arguments.data).json_lines("needle", "paul_graham_essays.jsonl.gz")
    haystack = Haystack(backbone.tokenizer, (row["text"] for row in rows))
    methods = {name: create_method(name, backbone) for name in ("window", "full")}
    rag = Rag.open(RagConfig(), Means(backbone))
    records: list[dict[str, Any]] = []
    for length, trial in product(arguments.lengths, range(arguments.trials)):
        memory = rag.new_memory()
        for variant in ("facts", "reworded"):  # of one text
            draw = random.Random(f"{length}/{trial}")
            reading = facts_reading(backbone.tokenizer, haystack, length, DEPTHS, draw, variant == "reworded")
            shared = {"length": length, "variant": variant}
            for name, method in methods.items():
                records += timed(shared | {"method": name}, partial(ask, method, backbone.tokenizer, reading))
            if memory.is_empty:
                rag.remember(backbone.tokenizer.decode(reading.tokens), "text", role="document", memory=memory)
            records += timed(shared | {"method": "rag"}, partial(ask_rag, rag, memory, methods["full"], reading))
        table = summary(records)
        config = {"backbone": arguments.backbone, "lengths": arguments.lengths, "trials": arguments.trials}
        done = {"length": length, "trial": trial}  # one that is stopped leaves what it had
        write_result("rag_facts", {"config": config, "machine": machine(), "done": done, "results": table})
    header = list(dict.fromkeys(name for row in table for name in row))
    print_table(header, [[shown(row.get(name, "")) for name in header] for row in table])


def ask_rag(rag: Rag, memory: NoteStore, full: Any, reading: PlantedText) -> list[dict[str, Any]]:
    """What `ask` gives for a text that retrieval took in: each question after the passages that it finds. The seconds
    are those of looking up and answering."""
    tokenizer, answers = full.backbone.tokenizer, []
    for question, start in zip(reading.questions, reading.starts, strict=True):
        found = rag.recall(question.prompt, memory=memory)
        recalled = "\n\n".join(one.note.text for one in reversed(found))
        place = len(tokenizer.decode(reading.tokens[:start])) + 2
        is_found = any(cite.start <= place < cite.end for one in found for cite in one.note.cites)
        (answer,) = ask(full, tokenizer, PlantedText(text_tokens(tokenizer, recalled), [question], [0]))
        answers.append({**answer, "found": is_found})
    return answers


def timed(shared: dict[str, Any], work: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    started = time.perf_counter()
    answers = work()
    seconds = (time.perf_counter() - started) / len(answers)
    return [{**shared, **answer, "seconds": seconds} for answer in answers]


def summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each length, variant and method that could hold the text; shares with their 95% intervals."""
    rows = []
    for key in dict.fromkeys((one["length"], one["variant"], one["method"]) for one in records):
        own = [one for one in records if (one["length"], one["variant"], one["method"]) == key and one["fits"]]
        if not own:
            continue
        row: dict[str, Any] = dict(zip(("length", "variant", "method"), key, strict=True))
        row["questions"] = len(own)
        for name, field in (("written", "correct"), ("likeliest of ten", "choice_correct"), ("found", "found")):
            hits = sum(one.get(field, False) for one in own)
            if field in own[0]:
                row[name] = [round(value, 3) for value in wilson_interval(hits, len(own))]
        row["nats"] = round(sum(one["nats"] for one in own) / len(own), 3)
        row["seconds a question"] = round(sum(one["seconds"] for one in own) / len(own), 2)
        rows.append(row)
    return rows


def shown(value: Any) -> str:
    """A share without its interval."""
    return f"{value[0]:.2f}" if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
