"""Facts that a text says once, in many forms, and how each is asked for; drawn by a seed.

Every form says one thing in two wordings, each of which ends in what is asked for: one is put into the text, and the
fact is asked for by the beginning of the same wording or of the other. People, places, things and numbers are drawn for
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
PEOPLE = tuple(f"{first} {last}" for first in _WORDS["first_names"].split() for last in _WORDS["last_names"].split())
PLACES = tuple(_WORDS["places"].split())
THINGS = tuple(f"{material} {what}" for material in _WORDS["materials"].split() for what in _WORDS["objects"].split())
NUMBERS = tuple(map(str, range(103, 9876)))
POOLS: dict[str, Sequence[str]] = {"person": PEOPLE, "place": PLACES, "thing": THINGS, "number": NUMBERS}


@dataclass(frozen=True)
class Fact:
    """A sentence; its beginning up to the answer; another wording's beginning; the answer and what else it could be."""

    text: str
    beginning: str
    other_beginning: str
    answers: list[str]


def draw_facts(count: int, choices: int, taken: Collection[str], draw: random.Random) -> list[Fact]:
    """Facts of different forms, none of whose people, places, things and numbers is another's.

    choices: answers to choose among, the right one first, then those of other facts of its kind, then unused ones;
    taken: words in lower case of which no answer has any.
    """
    pools = {kind: _unused(pool, taken, draw) for kind, pool in POOLS.items()}
    told = [_fill(form, pools, draw) for form in draw.sample(FORMS, count)]
    return [
        Fact(f"{said} {answer}.", said, other, _among(kind, answer, told, pools, choices))
        for kind, said, other, answer in told
    ]


def _unused(pool: Sequence[str], taken: Collection[str], draw: random.Random) -> list[str]:
    """What of a pool shares no word with a text, in random order; names of people that share no word."""
    found, used = [], set(taken)
    for name in draw.sample(pool, len(pool)):
        words = set(name.lower().split())
        if not words & used:
            found.append(name)
            used |= words if pool is PEOPLE else set()
    return found


def _fill(form: tuple[str, str, str], pools: dict[str, list[str]], draw: random.Random) -> tuple[str, str, str, str]:
    """Kind, the wording that is said, the other one, and the answer."""
    kind, *wordings = form
    names = {slot: pools[slot].pop() for slot in ("person", "place", "thing")}
    answer = pools[kind].pop()
    said, other = (wording.format(**names) for wording in draw.sample(wordings, 2))
    return kind, said, other, answer


def _among(
    kind: str, answer: str, told: Sequence[tuple[str, str, str, str]], pools: dict[str, list[str]], choices: int
) -> list[str]:
    others = [fact[3] for fact in told if fact[0] == kind and fact[3] != answer]
    return [answer, *others, *pools[kind][: choices - 1 - len(others)]][:choices]
