"""How passages are found for a question, and how sure that is: ways of joining words, meaning and neighbours.

    python benchmarks/measurements/recall_search.py --data data

Questions on 8 SQuAD articles read together (the half of the articles that `ltm bench run reading` shows, not asks) and
on three LoCoMo conversations, cut into passages as `ltm ask` cuts them. Prints the share of questions with the answer
(LoCoMo: of the evidence turns) among the first 1, 3, 10 passages, and a logistic regression of what was found on
whether it answers, from questions on these articles and as many on eight others. Writes
benchmarks/results/recall_search.json.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import machine, print_table, write_result

from ltm.data.passages import Passage
from ltm.methods.retrieval.base import Ranked, by_score, ranked_lists
from ltm.notes.row import NoteRow
from ltm.notes.search import fuse
from ltm.tasks.ask.readings import holds
from ltm.tasks.data import DataSource
from ltm.tasks.reading import Question, load_questions, split_by_title
from ltm.text.recall import PassageRecall

COUNTS = (1, 3, 10)


class Asked(NamedTuple):
    """A question, and which share of what answers it some passages hold."""

    question: str
    held: Callable[[Sequence[Passage]], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = DataSource(arguments.data)
    near, away, texts = squad(data, arguments.questions)
    recall = made(texts, "minilm")
    sets = {"squad": [(recall, near)], "locomo": [*map(conversation, load_conversations(data))]}
    table = [
        [name, *(f"{share:.3f}" for own in sets.values() for share in shares(own, join))] for name, join in WAYS.items()
    ]
    header = ["joined by", *(f"{name}@{count}" for name, count in product(sets, COUNTS))]
    print_table(header, table)
    fits = {str(encoder): confidence(made(texts, encoder), near, away) for encoder in ("minilm", None)}
    for encoder, fit in fits.items():
        print(encoder, fit)
    found = [dict(zip(header, row, strict=True)) for row in table]
    config = {"questions": arguments.questions}
    write_result("recall_search", {"config": config, "machine": machine(), "results": found, "confidence": fits})


# texts and questions


def squad(data: DataSource, count: int) -> tuple[list[Asked], list[Asked], dict[str, str]]:
    """Questions on eight articles, on eight others, and the texts of the first."""
    shown, _ = split_by_title(load_questions(data))
    titles = sorted({question.title for question in shown})
    random.Random("recall").shuffle(titles)

    def drawn(own: Sequence[str]) -> list[Asked]:
        chosen = [question for question in shown if question.title in own]
        return [Asked(q.question, answered(q)) for q in random.Random("recall").sample(chosen, count)]

    texts = {title: "\n\n".join(dict.fromkeys(q.passage for q in shown if q.title == title)) for title in titles[:8]}
    return drawn(titles[:8]), drawn(titles[8:16]), texts


def answered(question: Question) -> Callable[[Sequence[Passage]], float]:
    return lambda passages: float(any(holds(passage.text, question.answers) for passage in passages))


def load_conversations(data: DataSource) -> list[dict[str, Any]]:
    return json.loads(data.text("locomo", "locomo10.json.gz"))[:3]


def conversation(sample: dict[str, Any]) -> tuple[PassageRecall, list[Asked]]:
    """One conversation, a turn a paragraph, and its questions with their evidence."""
    spoken, text, places = sample["conversation"], "", {}
    sessions = sorted((name for name in spoken if re.fullmatch(r"session_\d+", name)), key=lambda n: int(n[8:]))
    for name in sessions:
        text += f"{spoken[f'{name}_date_time']}\n\n"
        for turn in spoken[name]:
            line = f"{turn['speaker']}: {turn['text']}"
            places[turn["dia_id"]] = len(text), len(text) + len(line)
            text += line + "\n\n"
    asked = [(q["question"], [places[e] for e in q["evidence"] if e in places]) for q in sample["qa"]]
    return made({"conversation": text}, "minilm"), [Asked(q, evidence(spans)) for q, spans in asked if spans]


def evidence(spans: list[tuple[int, int]]) -> Callable[[Sequence[Passage]], float]:
    def share(passages: Sequence[Passage]) -> float:
        held = [any((p.start or 0) <= a < (p.end or 0) for p in passages) for a, _ in spans]
        return sum(held) / len(held)

    return share


def made(texts: dict[str, str], encoder: str | None) -> PassageRecall:
    recall = PassageRecall(encoder)
    for number, (name, text) in enumerate(texts.items()):
        recall.add(number, name, text)
    return recall


# ways of joining lists


def by_rank(lists: dict[Any, Ranked], notes: NoteRow) -> list[int]:
    return [note for note, _, _ in fuse({by: [n for n, _ in own] for by, own in lists.items()}, 10)]


def by_rank_around(lists: dict[Any, Ranked], notes: NoteRow) -> list[int]:
    """Four lists: words, meaning, and both with half of the neighbours' score."""
    around = {f"{by} around": by_score({by: own}, notes, 0.5) for by, own in lists.items()}
    return [note for note, _, _ in fuse({by: [n for n, _ in own] for by, own in (lists | around).items()}, 10)]


def scored(share: float) -> Callable[[dict[Any, Ranked], NoteRow], list[int]]:
    return lambda lists, notes: [note for note, _ in by_score(lists, notes, share)]


WAYS: dict[str, Callable[[dict[Any, Ranked], NoteRow], list[int]]] = {
    "words": lambda lists, notes: [note for note, _ in lists["words"]],
    "meaning": lambda lists, notes: [note for note, _ in lists["meaning"]],
    "rank": by_rank,
    "rank, with neighbours": by_rank_around,
    "score": scored(0.0),
    "score, neighbours 0.15": scored(0.15),
    "score, neighbours 0.3": scored(0.3),
}


def shares(sets: Sequence[tuple[PassageRecall, list[Asked]]], join: Callable[..., list[int]]) -> list[float]:
    """The mean share held by the first 1, 3, 10 passages."""
    held = []
    for recall, asked in sets:
        notes = recall.notes
        for one in asked:
            ids = join(ranked_lists(one.question, notes, "hybrid"), notes)[: max(COUNTS)]
            passages = [Passage(None, *span, note.text, 0.0) for note, span in with_spans(notes, ids)]
            held.append([one.held(passages[:count]) for count in COUNTS])
    return np.mean(held, axis=0).tolist()


def with_spans(notes: NoteRow, ids: Sequence[int]) -> list[tuple[Any, tuple[int, int]]]:
    return [(note, (note.cites[0].start, note.cites[0].end)) for note in notes.notes(ids=ids)]


# confidence


def confidence(recall: PassageRecall, near: Sequence[Asked], away: Sequence[Asked]) -> dict[str, Any]:
    """Weights of a logistic regression, its area under the curve, and what thresholds keep out."""
    figures, right = [], []
    for one, known in [(q, True) for q in near] + [(q, False) for q in away]:
        found = recall.find(one.question)
        figures.append([1.0, *found.evidence])
        right.append(known and one.held(found.found[:3]) > 0)
    x, y = np.array(figures), np.array(right, dtype=float)
    weights = np.zeros(x.shape[1])
    for _ in range(100):  # Newton's method, with a little shrinkage
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(len(weights))
        weights += np.linalg.solve(hessian, x.T @ (y - p) - 1e-3 * weights)
    p = 1 / (1 + np.exp(-x @ weights))
    yes, no = p[y == 1], p[y == 0]
    auroc = float((yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2)
    below = {str(t): [round(float((own < t).mean()), 3) for own in (yes, no)] for t in (0.1, 0.2, 0.3)}
    return {"weights": weights.round(2).tolist(), "auroc": round(auroc, 3), "below, answered and not": below}


if __name__ == "__main__":
    main()
