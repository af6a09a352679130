"""Books with facts that a text says once, in many forms (`ltm.tasks.facts`), and real questions about them.

A fact is asked for in the words it was said in (`same words`) and in others (`other words`). `changed`: a later
sentence says otherwise, and the later one is right. `two-hop`: two sentences have to be put together.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ltm.tasks.ask.readings import Asked, AskedReading, ReadingUnit
from ltm.tasks.comma_lists import numbers
from ltm.tasks.facts import MATERIALS, OBJECTS, Fact, TwoHop, draw_facts, draw_two_hops
from ltm.tasks.recall_text import Haystack

if TYPE_CHECKING:
    from ltm.tasks.ask.config import AskConfig
    from ltm.tasks.data import DataSource

CHARS_A_TOKEN = 6
"""Characters of books that are certainly enough for a token of the longest reading."""
CHOICES = 20
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Told:
    """Sentences in the order in which the text says them, and what is asked: each question with the places of the
    sentences that answer it."""

    sentences: list[str]
    questions: list[tuple[Asked, tuple[int, ...]]]


def planted(config: AskConfig, data: DataSource, tokenizer: Any) -> Iterator[ReadingUnit]:
    """A book of each length, in every trial; each says `facts` things of every kind. Of its tokens a sentence is
    missing where something is said."""
    lengths = sorted(numbers(config.lengths))
    haystack = Haystack(tokenizer, _books(data, max(lengths) * CHARS_A_TOKEN))
    for trial in range(config.trials):
        for length in lengths:
            draw = random.Random(f"ask:{config.seed}:planted:{length}:{trial}")
            reading = _reading(tokenizer, haystack, length, config.facts, draw)
            yield ReadingUnit(f"planted/length={length}/trial={trial}", "planted", [reading], length)


def _books(data: DataSource, chars: int) -> list[str]:
    """Books of the test split, as many as hold so many characters."""
    texts: list[str] = []
    rows: Iterable[dict[str, Any]]
    if data.folder is None:
        rows = data.public("deepmind/pg19", split="test", streaming=True)
    else:
        rows = data.json_lines("books", "test.jsonl.gz")
    for row in rows:
        texts.append(row["text"])
        if sum(map(len, texts)) >= chars:
            break
    return texts


def _reading(tokenizer: Any, haystack: Haystack, length: int, count: int, draw: random.Random) -> AskedReading:
    told = tell(count, haystack.words - MATERIALS - OBJECTS, draw)
    room = length - sum(len(tokenizer(text)["input_ids"]) for text in told.sentences)
    cuts = sorted(draw.sample(range(1, room), len(told.sentences)))
    lengths = [after - before for before, after in zip([0, *cuts], [*cuts, room], strict=True)]
    pieces = [_from_sentence(tokenizer.decode(piece)) for piece in haystack.pieces(lengths, draw)]
    text, gold = pieces[0].strip(), list[str]()
    for sentence, piece in zip(told.sentences, pieces[1:], strict=True):
        gold.append(f"{_last(text)} {sentence} {_first(piece)}".strip())
        text = f"{text} {sentence} {piece.strip()}"
    asked = [_with_gold(one, places, gold) for one, places in told.questions]
    passages = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    return AskedReading([("book", text)], passages, asked)


def tell(count: int, taken: set[str], draw: random.Random) -> Told:
    """`count` facts said once, as many that change, as many pairs of sentences, in an order drawn."""
    facts = draw_facts(2 * count, CHOICES, taken, draw)
    said = "\n".join(" ".join([fact.text, *fact.answers]) for fact in facts)
    hops = draw_two_hops(count, taken, said, draw)
    groups = [_said_once(fact) for fact in facts[:count]]
    groups += [_changed(fact, number) for number, fact in enumerate(facts[count:])]
    groups += [_two_hop(hop) for hop in hops]
    owners = [number for number, group in enumerate(groups) for _ in group.sentences]
    draw.shuffle(owners)
    sentences, places = list[str](), dict[tuple[int, int], int]()
    for owner in owners:
        place = sum(1 for known in places if known[0] == owner)
        places[owner, place] = len(sentences)
        sentences.append(groups[owner].sentences[place])
    return Told(
        sentences,
        [
            (asked, tuple(places[number, own] for own in needed))
            for number, group in enumerate(groups)
            for asked, needed in group.questions
        ],
    )


def _said_once(fact: Fact) -> Told:
    answer = (fact.answers[0],)
    same = Asked(f"{fact.text} same", fact.question, answer, kind="same words")
    other = Asked(f"{fact.text} other", fact.other_question, answer, kind="other words")
    return Told([fact.text], [(same, (0,)), (other, (0,))])


def _changed(fact: Fact, number: int) -> Told:
    """The old answer is the last but `number` of what the fact could be, so that no two facts share it."""
    old, new = fact.answers[-1 - number], fact.answers[0]
    later = f"Since then this has changed: {fact.text[0].lower() if fact.text.startswith('The ') else fact.text[0]}"
    sentences = [f"{fact.beginning} {old}.", f"{later}{fact.text[1:]}"]
    asked = Asked(f"{fact.text} changed", fact.other_question, (new,), kind="changed", stale=old)
    return Told(sentences, [(asked, (1,))])


def _two_hop(hop: TwoHop) -> Told:
    asked = Asked(f"{hop.question} {hop.answer}", hop.question, (hop.answer,), kind="two-hop")
    return Told(list(hop.sentences), [(asked, (0, 1))])


def _with_gold(asked: Asked, places: Sequence[int], gold: Sequence[str]) -> Asked:
    return replace(asked, gold=tuple(gold[place] for place in sorted(places)))


def _from_sentence(piece: str) -> str:
    """A piece of a haystack from the first sentence on that begins in it."""
    first = _SENTENCE_END.search(piece)
    return piece[first.end() :] if first else ""


def _last(text: str) -> str:
    return _SENTENCE_END.split(text[-600:].strip())[-1]


def _first(text: str) -> str:
    return _SENTENCE_END.split(text[:600].strip())[0]
