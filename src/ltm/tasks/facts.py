"""Facts that a text says once, in many forms, and how each is asked for; drawn by a seed.

Every form says one thing in two wordings, each of which ends in what is asked for: one is put into the text, and the
fact is asked for by the beginning of the same wording or of the other, or by a question in the words of either. A fact
in two sentences is asked for by a question that neither answers alone. People, places, things and numbers are drawn for
each fact; none of what is asked for occurs in the text that the facts are put into. The forms were written before any
model saw them, and none was left out for what a model made of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

_WORDS = json.loads((Path(__file__).parent / "facts.json").read_text(encoding="utf-8"))

FORMS = tuple((form["asked"], *form["wordings"]) for form in _WORDS["forms"])
"""What is asked for, and two wordings up to it."""
QUESTIONS = {
    wording: question
    for form in _WORDS["forms"]
    for wording, question in zip(form["wordings"], form["questions"], strict=True)
}
"""A question in the words of each wording."""
TWO_HOP = tuple((form["asked"], tuple(form["sentences"]), form["question"]) for form in _WORDS["two_hop"])
"""What is asked for, two sentences that must be put together, and the question."""
PEOPLE = tuple(f"{first} {last}" for first in _WORDS["first_names"].split() for last in _WORDS["last_names"].split())
PLACES = tuple(_WORDS["places"].split())
THINGS = tuple(f"{material} {what}" for material in _WORDS["materials"].split() for what in _WORDS["objects"].split())
MATERIALS, OBJECTS = set(_WORDS["materials"].split()), set(_WORDS["objects"].split())
NUMBERS = tuple(map(str, range(103, 9876)))
POOLS: dict[str, Sequence[str]] = {"person": PEOPLE, "place": PLACES, "thing": THINGS, "number": NUMBERS}


@dataclass(frozen=True)
class Fact:
    """A sentence; its beginning up to the answer; another wording's beginning; the answer and what else it could be;
    a question in the words of the sentence, and one in those of the other wording."""

    text: str
    beginning: str
    other_beginning: str
    answers: list[str]
    question: str
    other_question: str


@dataclass(frozen=True)
class TwoHop:
    """Two sentences, and a question that neither of them answers alone."""

    sentences: tuple[str, ...]
    question: str
    answer: str


def draw_facts(count: int, choices: int, taken: Collection[str], draw: random.Random) -> list[Fact]:
    """Facts of different forms, none of whose people, places, things and numbers is another's.

    choices: answers to choose among, the right one first, then those of other facts of its kind, then unused ones;
    taken: words in lower case of which no answer has any.
    """
    pools = {kind: _unused(pool, taken, draw) for kind, pool in POOLS.items()}
    told = [_fill(form, pools, draw) for form in draw.sample(FORMS, count)]
    return [
        Fact(f"{said} {answer}.", said, other, _among(kind, answer, told, pools, choices), *asked)
        for kind, said, other, answer, *asked in told
    ]


def draw_two_hops(count: int, taken: Collection[str], said: str, draw: random.Random) -> list[TwoHop]:
    """Pairs of sentences with a question; names as in `draw_facts`, none of which stands in what is `said`."""
    pools = {kind: [name for name in _unused(pool, taken, draw) if name not in said] for kind, pool in POOLS.items()}
    found = []
    for kind, sentences, question in draw.sample(TWO_HOP, count):
        names = {slot: pools[slot].pop() for slot in ("person", "place", "thing")}
        answer = pools[kind].pop()
        told = tuple(sentence.format(answer=answer, **names) for sentence in sentences)
        found.append(TwoHop(told, question.format(**names), answer))
    return found


def _unused(pool: Sequence[str], taken: Collection[str], draw: random.Random) -> list[str]:
    """What of a pool shares no word with a text, in random order; names of people that share no word."""
    found, used = [], set(taken)
    for name in draw.sample(pool, len(pool)):
        words = set(name.lower().split())
        if not words & used:
            found.append(name)
            used |= words if pool is PEOPLE else set()
    return found


def _fill(form: tuple[str, str, str], pools: dict[str, list[str]], draw: random.Random) -> tuple[str, ...]:
    """Kind, the wording that is said, the other one, the answer, and the two questions."""
    kind, *wordings = form
    names = {slot: pools[slot].pop() for slot in ("person", "place", "thing")}
    answer = pools[kind].pop()
    chosen = draw.sample(wordings, 2)
    said, other = (wording.format(**names) for wording in chosen)
    return kind, said, other, answer, *(QUESTIONS[wording].format(**names) for wording in chosen)


def _among(
    kind: str, answer: str, told: Sequence[tuple[str, ...]], pools: dict[str, list[str]], choices: int
) -> list[str]:
    others = [fact[3] for fact in told if fact[0] == kind and fact[3] != answer]
    return [answer, *others, *pools[kind][: choices - 1 - len(others)]][:choices]
