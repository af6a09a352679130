"""Questions over two whole books as a user asks them, and the same facts by the beginnings of the books' sentences.

    python benchmarks/measurements/book_questions.py --data data

Each book of `book_questions.json` is read into a memory that holds all of it, then asked as `ltm ask` does:
the questions with the chat template, the sentences that say the answers with `--continue`, up to the answer. Right is
an answer that names what is accepted, as whole words. The backbone that has read nothing is asked the same. Writes
benchmarks/results/book_questions.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import machine, notice, print_table, write_result

import ltm
from ltm.bench.specs import parse_method
from ltm.methods.opening import open_method
from ltm.tasks.data import DataSource
from ltm.tasks.recall_text import contains_answer
from ltm.text.session import Session

QUESTIONS = Path(__file__).with_suffix(".json")
ASKED, BEGUN = "question", "begun"
"""As a question, 48 tokens of answer; as a sentence's beginning, 12."""
MOST = {ASKED: 48, BEGUN: 12}
PENALTY = 1.1
"""Of repetitions: what the commands have."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", default="longmem:memory_size=131072 as longmem;window")
    arguments = parser.parse_args()
    books, backbone = json.loads(QUESTIONS.read_text()), ltm.load_backbone("smollm2-135m")
    rows = DataSource(arguments.data).json_lines("books", "test.jsonl.gz")
    texts = {row["id"]: row["text"] for row in rows if row["id"] in books}
    results = {}
    for spec in map(parse_method, arguments.methods.split(";")):
        records: list[dict[str, Any]] = []
        for book, facts in books.items():
            session = Session(open_method(spec.name, backbone, spec.sidenet, **spec.options))
            if session.method.keeps_bank:
                session.read(texts[book], book)
            records += [record(session, book, fact, way) for fact in facts for way in (ASKED, BEGUN)]
            notice(f"{spec.label}: {book}, {sum(r['right'] for r in records)} of {len(records)} right so far")
        results[spec.label] = {"right": totals(records), "records": records}
    write_result("book_questions", {"machine": machine(), "books": list(books), "results": results})
    print_table(["method", *MOST], [[name, *map(str, found["right"].values())] for name, found in results.items()])


def record(session: Session, book: str, fact: dict[str, Any], way: str) -> dict[str, Any]:
    answer = session.ask if way == ASKED else session.continue_text
    text = answer(fact[way], max_new_tokens=MOST[way], repetition_penalty=PENALTY).text
    right = any(contains_answer(text, accepted) for accepted in fact["answers"])
    return {"book": book, "way": way, "prompt": fact[way], "answer": text, "right": right}


def totals(records: list[dict[str, Any]]) -> dict[str, str]:
    """Right answers of all, by the way of asking."""
    own = {way: [r["right"] for r in records if r["way"] == way] for way in MOST}
    return {way: f"{sum(right)} of {len(right)}" for way, right in own.items()}


if __name__ == "__main__":
    main()
