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

WORDS = """
names Bruno Otto Clara Dora Felix Greta Hugo Ilona Jonas Klara Leon Martha Nils Paula Ruben Silke Theo Wanda
places Lisbon Oslo Prague Dublin Vienna Bergen Turin Ghent Malaga Krakow Zagreb Tallinn Porto Graz Basel Leeds
colors red blue green yellow black white orange purple silver brown
foods lasagna sushi goulash paella ramen curry pancakes risotto falafel tacos dumplings moussaka
hobbies chess pottery climbing fencing rowing knitting archery judo tennis sailing yoga painting
instruments violin cello flute harp trumpet piano guitar accordion oboe drums
languages Finnish Japanese Turkish Italian Welsh Korean Greek Polish Arabic Czech
numbers 4821 7390 1582 6047 9215 3368 8804 2759 5136 6672
weekdays Monday Tuesday Wednesday Thursday Friday Saturday Sunday
companies Brightwave Norvia Tessel Quantock Solmar Edgewood Pinecrest Halden Ostara Kestrel
plants fern cactus orchid bonsai ivy basil lemon olive palm jasmine
"""
POOLS = {name: words for name, *words in map(str.split, WORDS.strip().splitlines())}

KINDS: Sequence[tuple[str, str, str, str]] = [
    ("My dog is called {}.", "names", "What is my dog called?", "Do you remember the name of my dog?"),
    ("My sister's name is {}.", "names", "What is my sister's name?", "How is my sister called?"),
    ("My boss is called {}.", "names", "What is the name of my boss?", "Who is my boss?"),
    ("My dentist is Doctor {}.", "names", "Who is my dentist?", "Which doctor looks after my teeth?"),
    ("My neighbour is called {}.", "names", "What is my neighbour called?", "What is the person next door called?"),
    ("My piano teacher is called {}.", "names", "What is my piano teacher called?", "Who teaches me the piano?"),
    (
        "My grandmother was born in {}.",
        "places",
        "Where was my grandmother born?",
        "What is my grandmother's birthplace?",
    ),
    ("I live in {}.", "places", "Where do I live?", "Which city is my home in?"),
    ("My next holiday will be in {}.", "places", "Where will my next holiday be?", "Where do I travel next?"),
    (
        "My brother studies in {}.",
        "places",
        "Where does my brother study?",
        "In which city is my brother's university?",
    ),
    ("My head office is in {}.", "places", "Where is my head office?", "In which city is the head office?"),
    ("My car is {}.", "colors", "What color is my car?", "Which color did I pick for my car?"),
    ("My front door is painted {}.", "colors", "What color is my front door?", "How is my front door painted?"),
    ("My bicycle is {}.", "colors", "What color is my bicycle?", "What does my bicycle look like?"),
    ("My favourite dish is {}.", "foods", "What is my favourite dish?", "What do I like to eat most?"),
    ("On Fridays we cook {}.", "foods", "What do we cook on Fridays?", "What is our meal at the end of the week?"),
    ("My hobby is {}.", "hobbies", "What is my hobby?", "What do I do in my free time?"),
    ("My daughter has started {}.", "hobbies", "What has my daughter started?", "What is my daughter's new activity?"),
    ("I play the {}.", "instruments", "Which instrument do I play?", "What instrument is mine?"),
    (
        "My son wants to learn the {}.",
        "instruments",
        "What does my son want to learn?",
        "Which instrument is my son's?",
    ),
    ("I am learning {}.", "languages", "Which language am I learning?", "What language do I study?"),
    ("My wife speaks {}.", "languages", "Which language does my wife speak?", "What can my wife speak?"),
    ("The code of my garage is {}.", "numbers", "What is the code of my garage?", "How do I open the garage?"),
    ("My locker number is {}.", "numbers", "What is my locker number?", "Which locker is mine?"),
    (
        "My train ticket has the number {}.",
        "numbers",
        "Which number has my train ticket?",
        "What is on my train ticket?",
    ),
    ("The bins are emptied on {}.", "weekdays", "When are the bins emptied?", "On which day do I put out the bins?"),
    ("My yoga class is on {}.", "weekdays", "On which day is my yoga class?", "When do I have yoga?"),
    ("I work for {}.", "companies", "Which company do I work for?", "Who is my employer?"),
    ("My bank is {}.", "companies", "Which bank do I use?", "Where is my money?"),
    ("The plant on my desk is a {}.", "plants", "Which plant is on my desk?", "What grows on my desk?"),
]
"""What is said, what can stand in it, and how it is asked for: near to what was said, and in other words."""
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
    """What is said of one thing. values: in the order they were said, the last one in force; ids: of the turns that
    said them; forgotten: after that."""

    kind: int
    values: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    forgotten: bool = False

    @property
    def others(self) -> list[str]:
        """Values of its kind that were never said of it."""
        return [value for value in POOLS[KINDS[self.kind][1]] if value not in self.values]


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
    values = {fact: rng.sample(POOLS[KINDS[fact][1]], 2) for fact in facts}
    days: list[list[ScriptTurn]] = [[] for _ in range(DAYS)]
    for place, fact in enumerate(facts):
        first = place % 7
        days[first].append(_said("say", fact, values[fact][0]))
        last = first
        if fact in changing:
            last = 7 + place % 4
            is_corrected = place < NUM_CORRECTED
            days[last].append(
                _said("correct", fact, values[fact][1]) if is_corrected else ScriptTurn("forget", fact=fact)
            )
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
