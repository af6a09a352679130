"""What a recall test reads and asks: haystacks with keys in them, and dictionaries, of exact lengths in tokens."""

from __future__ import annotations

import random
import re
import uuid
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

from ltm.errors import LtmError
from ltm.tasks.facts import draw_facts
from ltm.tasks.scoring import start_tokens, text_tokens

NUM_DISTRACTORS = 9
"""Other keys that the right one is compared with; chance is 1 / 10."""
NAMES = ("Anna", "Boris", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Irene", "James")

# Written so that SmolLM2-135M, which is not tuned to follow instructions, solves them at short length.
NEEDLE = "\n\nThe pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "\n\nWhat is the pass key? The pass key is"
# Sentences with no word in common: the same words around every key ("The door code is", "The phone number is") so
# small a model confuses even where all of them are in its window (15 of 20 right, of these 20 of 20; docs/log).
SENTENCES = (
    "A ticket to Lisbon costs",
    "The lighthouse was built with bricks:",
    "Maria's telephone extension is",
    "Doctor Weber prescribed drops:",
    "The red tractor has serial number",
    "Platform for the night train:",
)
SENTENCE_NEEDLE = "\n\n{name} {key}. {name} {key}."
SENTENCE_QUESTION = "\n\n{name}"
NAMED_NEEDLE = "\n\nThe pass key of {name} is {key}. Remember it. {key} is the pass key of {name}."
NAMED_QUESTION = "\n\nWhat is the pass key of {name}? The pass key of {name} is"

# Lost in the Middle's form (Liu et al., 2023).
DICTIONARY = "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{"
PAIR = '"{}": "{}"'
KEY_QUESTION = '\n\nKey: "{}"\nCorresponding value: "'

_SENTENCE = re.compile(r".+?(?:[.!?][\"')\]]*(?=\s)|\Z)", re.DOTALL)
_KEYS = range(10_000, 100_000)


@dataclass(frozen=True)
class PlantedQuestion:
    """One question on a reading; answers: as text, the right one first, then those it is compared with.

    before: what stands between the prompt and the answer's text (a space). depth: percent of the reading before the
    needle, or the place of the pair, 0 the first and 100 the last.
    """

    depth: int
    prompt: str
    answers: list[str]
    before: str = ""


@dataclass(frozen=True)
class PlantedText:
    """Tokens that are read, and what is asked afterwards; starts: where each question's needle or pair begins."""

    tokens: list[int]
    questions: list[PlantedQuestion]
    starts: list[int]


class Haystack:
    """Real text as tokens, with the places where sentences end; after its end it starts anew.

    texts: essays, books or articles. Raises LtmError where they hold no sentence.
    """

    def __init__(self, tokenizer: Any, texts: Iterable[str]):
        sentences = [match.group() for text in texts for match in _SENTENCE.finditer(text.strip() + "\n\n")]
        parts = tokenizer(sentences, add_special_tokens=False, verbose=False)["input_ids"] if sentences else []
        self.tokens = list(chain.from_iterable(parts))
        self.ends = sorted(set(accumulate(map(len, parts))) - {0})
        self.numbers = {number for sentence in sentences for number in re.findall(r"\d+", sentence)}
        self.words = {word for sentence in sentences for word in re.findall(r"\w+", sentence.lower())}
        if not self.tokens:
            raise LtmError("the haystack holds no text; give one that does")

    def pieces(self, lengths: Sequence[int], draw: random.Random) -> list[list[int]]:
        """Text that goes on from piece to piece, each of exactly its length; all but the last end with a sentence.

        The text starts at a random place, in mid-sentence if need be. Between pieces at most a sentence is skipped.
        """
        end = draw.choice(self.ends)
        found = [self._slice(end - lengths[0], lengths[0])]
        for length in lengths[1:-1]:
            end = self._sentence_end(end + length)
            found.append(self._slice(end - length, length))
        return [*found, self._slice(end, lengths[-1])]

    def _slice(self, start: int, length: int) -> list[int]:
        return [self.tokens[place % len(self.tokens)] for place in range(start, start + length)]

    def _sentence_end(self, place: int) -> int:
        """The first end of a sentence at or after a place."""
        rounds, within = divmod(place, len(self.tokens))
        index = bisect_left(self.ends, within)
        return rounds * len(self.tokens) + (self.ends[index] if within else 0)


def haystack_reading(
    tokenizer: Any,
    haystack: Haystack,
    length: int,
    depths: Sequence[int],
    draw: random.Random,
    sentences: bool = False,
) -> PlantedText:
    """`length` tokens of haystack with a key at each depth: one key without a name, or several, with names of people
    or (`sentences`) each at the end of a sentence of its own.

    A depth is the percentage of the haystack's tokens that stand before the needle. No key occurs in the haystack.
    """
    if sentences:
        names, needle, question = draw.sample(SENTENCES, len(depths)), SENTENCE_NEEDLE, SENTENCE_QUESTION
    elif len(depths) > 1:
        names, needle, question = draw.sample(NAMES, len(depths)), NAMED_NEEDLE, NAMED_QUESTION
    else:
        names, needle, question = [""], NEEDLE, QUESTION
    keys = _draw_keys(haystack.numbers, len(depths) + NUM_DISTRACTORS, draw)
    needles = [needle.format(name=name, key=key) for name, key in zip(names, keys, strict=False)]
    tokens, starts = _planted(tokenizer, haystack, length, depths, needles, draw)
    questions = [
        PlantedQuestion(depth, question.format(name=names[i]), _choices(keys, i, draw, len(depths)), " ")
        for i, depth in enumerate(depths)
    ]
    return PlantedText(tokens, questions, starts)


def facts_reading(
    tokenizer: Any,
    haystack: Haystack,
    length: int,
    depths: Sequence[int],
    draw: random.Random,
    reworded: bool = False,
) -> PlantedText:
    """`length` tokens of haystack with a fact at each depth, said once in the midst of it (`ltm.tasks.facts`).

    Each is asked for by its sentence's beginning or (`reworded`) by that of another wording of it. No answer shares a
    word with the haystack.
    """
    facts = draw_facts(len(depths), NUM_DISTRACTORS + 1, haystack.words, draw)
    tokens, starts = _planted(tokenizer, haystack, length, depths, [f" {fact.text}" for fact in facts], draw)
    questions = [
        PlantedQuestion(depth, "\n\n" + (fact.other_beginning if reworded else fact.beginning), fact.answers, " ")
        for depth, fact in zip(depths, facts, strict=True)
    ]
    return PlantedText(tokens, questions, starts)


def _planted(
    tokenizer: Any,
    haystack: Haystack,
    length: int,
    depths: Sequence[int],
    texts: Sequence[str],
    draw: random.Random,
) -> tuple[list[int], list[int]]:
    """`length` tokens of haystack with a text at each depth, and where these begin."""
    needles = [text_tokens(tokenizer, text) for text in texts]
    begin = start_tokens(tokenizer)
    room = length - len(begin) - sum(map(len, needles))
    if room < 0:
        raise LtmError(f"{length} tokens do not hold {len(depths)} keys; use {length - room} or more")
    places = [0, *(round(depth * room / 100) for depth in depths), room]
    pieces = haystack.pieces([after - before for before, after in pairwise(places)], draw)
    tokens, starts = [*begin, *pieces[0]], []
    for own, piece in zip(needles, pieces[1:], strict=True):
        starts.append(len(tokens))
        tokens += [*own, *piece]
    return tokens, starts


def dictionary_reading(
    tokenizer: Any, pairs: Sequence[Sequence[str]], depths: Sequence[int], draw: random.Random, most: int | None = None
) -> PlantedText:
    """A JSON dictionary and a question for the pair at each depth (0 the first, 100 the last).

    most: tokens of the reading; as many whole pairs as fit are taken (None: all), so that it is less than one pair
    shorter. The values that an answer is compared with are others of the same dictionary.
    """
    texts = [("" if place == 0 else ",\n ") + PAIR.format(*pair) for place, pair in enumerate(pairs)]
    parts = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    begin, end = start_tokens(tokenizer) + text_tokens(tokenizer, DICTIONARY), text_tokens(tokenizer, "}")
    ends = list(accumulate(map(len, parts), initial=len(begin)))
    fitting = sum(place + len(end) <= most for place in ends[1:]) if most is not None else len(parts)
    if fitting <= NUM_DISTRACTORS:
        raise LtmError(f"{most} tokens hold {fitting} pairs; give room for {NUM_DISTRACTORS + 1} or more")
    asked = [round(depth * (fitting - 1) / 100) for depth in depths]
    values = [value for _, value in pairs[:fitting]]
    questions = [
        PlantedQuestion(depth, KEY_QUESTION.format(pairs[place][0]), _choices(values, place, draw))
        for depth, place in zip(depths, asked, strict=True)
    ]
    tokens = [*begin, *chain.from_iterable(parts[:fitting]), *end]
    return PlantedText(tokens, questions, [ends[place] for place in asked])


def number_pairs(tokenizer: Any, most: int, draw: random.Random) -> list[tuple[str, str]]:
    """Pairs of five-digit numbers, no number twice, that fill `most` tokens or more."""
    shortest = len(text_tokens(tokenizer, PAIR.format(_KEYS[0], _KEYS[0])))
    count = min(most // shortest + 1, len(_KEYS) // 2)
    drawn = list(map(str, draw.sample(_KEYS, 2 * count)))
    return list(zip(drawn[:count], drawn[count:], strict=True))


def uuid_pairs(count: int, draw: random.Random) -> list[tuple[str, str]]:
    """Pairs of random UUIDs, as the files of Lost in the Middle hold them."""
    drawn = [str(uuid.UUID(int=draw.getrandbits(128), version=4)) for _ in range(2 * count)]
    return list(zip(drawn[:count], drawn[count:], strict=True))


def contains_answer(text: str, answer: str) -> bool:
    """Whether the answer stands in a text as a whole word or number, in whatever case.

    >>> contains_answer("The key is 12345.", "12345"), contains_answer("123456", "12345")
    (True, False)
    """
    whole = rf"(?<![^\W_]){re.escape(answer)}(?![^\W_])"
    return re.search(whole, text, re.IGNORECASE) is not None


def _draw_keys(taken: set[str], count: int, draw: random.Random) -> list[str]:
    """Different five-digit numbers that are not taken."""
    drawn = (str(key) for key in draw.sample(_KEYS, count + len(taken)))
    return [key for key in drawn if key not in taken][:count]


def _choices(keys: Sequence[str], right: int, draw: random.Random, asked: int = 0) -> list[str]:
    """The right key, then others: first those that were read too (keys[:asked]), the rest at random."""
    read = [key for place, key in enumerate(keys[:asked]) if place != right]
    unread = [key for place, key in enumerate(keys) if place >= asked and place != right]
    return [keys[right], *read, *draw.sample(unread, max(NUM_DISTRACTORS - len(read), 0))][: NUM_DISTRACTORS + 1]
