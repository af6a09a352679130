"""A chat of many days with one person: facts said once, facts corrected later, facts to be forgotten, and questions.

Every day is a conversation of its own, whose messages a client sends again with each turn; what was said on other days
is in the memory or nowhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

DAYS, TURNS_A_DAY = 20, 10
NUM_CORRECTED, NUM_FORGOTTEN = 12, 6

NAMES = "Bruno Otto Clara Dora Felix Greta Hugo Ilona Jonas Klara Leon Martha Nils Paula Ruben Silke Theo Wanda".split()
PLACES = "Lisbon Oslo Prague Dublin Vienna Bergen Turin Ghent Malaga Krakow Zagreb Tallinn Porto Graz Basel Leeds".split()
COLORS = "red blue green yellow black white orange purple silver brown".split()
FOODS = "lasagna sushi goulash paella ramen curry pancakes risotto falafel tacos dumplings moussaka".split()
THINGS = "chess pottery climbing fencing rowing knitting archery judo tennis sailing yoga painting".split()
INSTRUMENTS = "violin cello flute harp trumpet piano guitar accordion oboe drums".split()
LANGUAGES = "Finnish Japanese Turkish Italian Welsh Korean Greek Polish Arabic Czech".split()
NUMBERS = [str(number) for number in (4821, 7390, 1582, 6047, 9215, 3368, 8804, 2759, 5136, 6672)]
DAYS_OF_WEEK = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
COMPANIES = "Brightwave Norvia Tessel Quantock Solmar Edgewood Pinecrest Halden Ostara Kestrel".split()
PLANTS = "fern cactus orchid bonsai ivy basil lemon olive palm jasmine".split()

KINDS: Sequence[tuple[str, Sequence[str], str, str]] = [
    ("My dog is called {}.", NAMES, "What is my dog called?", "Do you remember the name of my dog?"),
    ("My sister's name is {}.", NAMES, "What is my sister's name?", "How is my sister called?"),
    ("My boss is called {}.", NAMES, "What is the name of my boss?", "Who is my boss?"),
    ("My dentist is Doctor {}.", NAMES, "Who is my dentist?", "Which doctor looks after my teeth?"),
    ("My neighbour is called {}.", NAMES, "What is my neighbour called?", "What is the name of the person next door?"),
    ("My piano teacher is called {}.", NAMES, "What is my piano teacher called?", "Who teaches me the piano?"),
    ("My grandmother was born in {}.", PLACES, "Where was my grandmother born?", "What is my grandmother's birthplace?"),
    ("I live in {}.", PLACES, "Where do I live?", "Which city is my home in?"),
    ("My next holiday will be in {}.", PLACES, "Where will my next holiday be?", "Where do I travel next?"),
    ("My brother studies in {}.", PLACES, "Where does my brother study?", "In which city is my brother's university?"),
    ("My head office is in {}.", PLACES, "Where is my head office?", "In which city is the head office?"),
    ("My car is {}.", COLORS, "What color is my car?", "Which color did I pick for my car?"),
    ("My front door is painted {}.", COLORS, "What color is my front door?", "How is my front door painted?"),
    ("My bicycle is {}.", COLORS, "What color is my bicycle?", "What does my bicycle look like?"),
    ("My favourite dish is {}.", FOODS, "What is my favourite dish?", "What do I like to eat most?"),
    ("On Fridays we cook {}.", FOODS, "What do we cook on Fridays?", "What is our meal at the end of the week?"),
    ("My hobby is {}.", THINGS, "What is my hobby?", "What do I do in my free time?"),
    ("My daughter has started {}.", THINGS, "What has my daughter started?", "What is my daughter's new activity?"),
    ("I play the {}.", INSTRUMENTS, "Which instrument do I play?", "What instrument is mine?"),
    ("My son wants to learn the {}.", INSTRUMENTS, "What does my son want to learn?", "Which instrument is for my son?"),
    ("I am learning {}.", LANGUAGES, "Which language am I learning?", "What language do I study?"),
    ("My wife speaks {}.", LANGUAGES, "Which language does my wife speak?", "What can my wife speak?"),
    ("The code of my garage is {}.", NUMBERS, "What is the code of my garage?", "How do I open the garage?"),
    ("My locker number is {}.", NUMBERS, "What is my locker number?", "Which locker is mine?"),
    ("My train ticket has the number {}.", NUMBERS, "Which number has my train ticket?", "What is on my train ticket?"),
    ("The bins are emptied on {}.", DAYS_OF_WEEK, "When are the bins emptied?", "On which day do I put out the bins?"),
    ("My yoga class is on {}.", DAYS_OF_WEEK, "On which day is my yoga class?", "When do I have yoga?"),
    ("I work for {}.", COMPANIES, "Which company do I work for?", "Who is my employer?"),
    ("My bank is {}.", COMPANIES, "Which bank do I use?", "Where is my money?"),
    ("The plant on my desk is a {}.", PLANTS, "Which plant is on my desk?", "What grows on my desk?"),
]
TALK = [
    "Hello!",
    "Good morning, how are you?",
    "Thanks, that helps.",
    "Tell me a joke.",
    "Write one sentence about the sea.",
    "What is the capital of France?",
    "Give me a word that rhymes with house.",
    "How many days has a leap year?",
    "I slept badly last night.",
    "It is raining outside again.",
    "Let us talk about something else.",
    "Name three fruits.",
    "What is seven times eight?",
    "Good night!",
    "That was a long day.",
    "Suggest a title for a story about a fox.",
]


@dataclass
class Fact:
    """What is said of one thing. values: in the order they were said, the last one in force; said: (day, turn id) of
    each; forgotten: after that."""

    kind: int
    values: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    forgotten: bool = False

    @property
    def others(self) -> list[str]:
        """Values of its kind that were never said of it."""
        return [value for value in KINDS[self.kind][1] if value not in self.values]


@dataclass(frozen=True)
class ScriptTurn:
    """text: what the person says. kind: talk, say, correct, forget (nothing is said) or ask; fact: which it is about;
    wording: of a question, 0 near to what was said, 1 in other words."""

    kind: str
    text: str = ""
    fact: int = -1
    wording: int = -1
    value: str = ""


def chat(seed: int) -> list[list[ScriptTurn]]:
    """Days of turns: a fact is asked for on a later day than anything was said of it, in both wordings.

    >>> sum(turn.kind == "ask" for day in chat(0) for turn in day)
    60
    """
    rng = random.Random(seed)
    facts = rng.sample(range(len(KINDS)), len(KINDS))
    changing = facts[: NUM_CORRECTED + NUM_FORGOTTEN]
    values = {fact: rng.sample(KINDS[fact][1], 2) for fact in facts}
    days: list[list[ScriptTurn]] = [[] for _ in range(DAYS)]
    for place, fact in enumerate(facts):
        first = place % 7
        days[first].append(_said("say", fact, values[fact][0]))
        last = first
        if fact in changing:
            last = 7 + place % 4
            is_corrected = place < NUM_CORRECTED
            days[last].append(_said("correct", fact, values[fact][1]) if is_corrected else ScriptTurn("forget", fact=fact))
        for wording in (0, 1):
            day = rng.randrange(max(last + 1, 8), DAYS)
            days[day].append(ScriptTurn("ask", KINDS[fact][2 + wording], fact, wording))
    for day in days:
        spoken = sum(turn.kind != "forget" for turn in day)
        day += [ScriptTurn("talk", rng.choice(TALK)) for _ in range(max(TURNS_A_DAY - spoken, 2))]
        rng.shuffle(day)
    return days


def _said(kind: str, fact: int, value: str) -> ScriptTurn:
    text = KINDS[fact][0].format(value)
    if kind == "correct":
        text = f"That has changed: {text[0].lower() if not text.startswith('I ') else 'I'}{text[1:]}"
    return ScriptTurn(kind, text, fact, value=value)
