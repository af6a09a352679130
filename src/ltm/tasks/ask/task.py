"""Questions about what was read, asked as a user asks: in text, of a session (`Session`, `TextSession`).

A reading is read once and then asked under each *arm*, which differ in what of the past an answer has:

    none    nothing                     memory  the memory alone
    text    passages that are found     both    passages, and the memory attached
    gold    the passage that answers    random  two passages of the same reading
    full    all that was read, where it fits the window

All have the same instruction. An answer counts as right (`holds_answer`) where it holds a gold answer as whole words;
exact match and F1 are SQuAD's (`ltm.tasks.reading`). The *recovered share* of an arm is (arm - none) / (gold - none).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from ltm.configs import INSTRUCTION
from ltm.tasks.ask.config import AskConfig
from ltm.tasks.ask.planted import planted
from ltm.tasks.ask.readings import Asked, AskedReading, ReadingUnit, holds
from ltm.tasks.ask.tables import table
from ltm.tasks.ask.texts import SOURCES
from ltm.tasks.base import Record, Row, Speaker, Task, Unit
from ltm.tasks.comma_lists import words
from ltm.tasks.reading import exact_match, f1
from ltm.tasks.registry import register
from ltm.tasks.scoring import text_tokens

ALL_SOURCES = {**SOURCES, "planted": planted}
"""By the name in `AskConfig.texts`."""
RECALL = {"memory": "memory", "text": "text", "both": "both"}
"""Arms that look for themselves; the others are given what they see."""
SEARCHING = ("text", "both")
"""Arms that look passages up."""
NUM_RANDOM = 2
INSTRUCTIONS = {"qmsum": "Answer in two or three sentences."}
SPARE_TOKENS = 256
"""Of a window beside a whole text: question, template and answer."""


@register("ask")
class Ask(Task):
    """See the module's text and `AskConfig`. A unit is an article, a conversation, a meeting, a task of stories or a
    book; a record is one question under one arm."""

    config_class = AskConfig
    source = (
        "Rajpurkar et al., 2016, arXiv:1606.05250 (SQuAD); Maharana et al., 2024, arXiv:2402.17753 (LoCoMo); "
        "Weston et al., 2015, arXiv:1502.05698 (bAbI); Zhong et al., 2021, arXiv:2104.05938 (QMSum)"
    )
    speaks: ClassVar[Literal["tokens", "text"]] = "text"

    config: AskConfig

    def units(self) -> Iterator[Unit]:
        """Source by source, in the order asked for."""
        for name in words(self.config.texts):
            for unit in ALL_SOURCES[name](self.config, self.data, self.tokenizer):
                yield Unit(unit.key, self._cost(unit), partial(self._run, unit))

    def summarise(self, records: Sequence[Record]) -> list[Row]:
        """Every metric by text, length, kind and arm, recovered shares, and how well confidence tells answerable."""
        return table(records, words(self.config.arms))

    def _cost(self, unit: ReadingUnit) -> int:
        """Tokens that are read; what is asked is short beside them."""
        return sum(len(text_tokens(self.tokenizer, reading.text)) for reading in unit.readings)

    def _run(self, unit: ReadingUnit, session: Speaker) -> list[Record]:
        """Read each reading once, then ask under every arm."""
        records = []
        for place, reading in enumerate(unit.readings):
            session.reset()
            is_read = self._remembers and self._fits(session.capacity, reading)
            for name, text in reading.documents if is_read else ():
                session.read(text, name)
            about = {"text": unit.text, "length": unit.length, "reading": f"{unit.key}/{place}"}
            for arm in words(self.config.arms):
                if arm not in RECALL or (is_read and RECALL[arm] in session.recall_modes):
                    asked = self._ask(session, reading, arm, about)
                    records += [{**about, "arm": arm, **own} for own in asked]
        return records

    @property
    def _remembers(self) -> bool:
        """Whether an arm needs what was read; a method that cannot hold a text is asked under the others."""
        return any(arm in RECALL for arm in words(self.config.arms))

    def _ask(self, session: Speaker, reading: AskedReading, arm: str, about: dict[str, Any]) -> list[Record]:
        """A record for each question; none where the arm cannot be: the whole text does not fit, or there is no gold
        passage. What cannot be answered is asked where something is looked for, to see how sure of it that is."""
        if arm == "full" and not self._fits(session.window, reading):
            return []
        asked = [one for one in reading.asked if one.answerable or arm in SEARCHING]
        asked = [one for one in asked if one.gold or arm != "gold"]
        if not asked:
            return []
        given = _given(arm, reading, asked, f"ask:{self.config.seed}:{about['reading']}")
        put = {
            "recall": RECALL.get(arm, "off"),
            "instruction": INSTRUCTIONS.get(about["text"], INSTRUCTION),
        }
        answers = session.ask_all(
            [one.question for one in asked],
            given=given,
            max_new_tokens=self.config.max_new_tokens,
            batch_size=self.config.batch_size,
            **put,
        )
        records = []
        for number, (one, answer) in enumerate(zip(asked, answers, strict=True)):
            own = None if given is None else given[number]
            nats = self._nats(session, one, own, put) if one.answerable and self.config.likelihood else None
            records.append(_record(one, answer, nats, arm))
        return records

    def _nats(self, session: Speaker, asked: Asked, given: Sequence[str] | None, put: dict[str, Any]) -> float:
        """Log-probability of the first gold answer, nats a token."""
        answer = asked.answers[0]
        (nats,) = session.answer_likelihoods(asked.question, [answer], given=given, **put)
        return nats / len(text_tokens(self.tokenizer, answer))

    def _fits(self, limit: int | None, reading: AskedReading) -> bool:
        """Whether all that is read, and a question, are no more tokens than that; None: no limit."""
        return limit is None or len(text_tokens(self.tokenizer, reading.text)) + SPARE_TOKENS <= limit


def _given(arm: str, reading: AskedReading, asked: Sequence[Asked], seed: str) -> list[list[str]] | None:
    """What stands before each question; None: the session looks for itself, or nothing does."""
    if arm == "gold":
        return [list(one.gold) for one in asked]
    if arm == "full":
        return [[reading.text] for _ in asked]
    if arm == "random":
        draw = random.Random(seed)
        return [_others(reading, one, draw) for one in asked]
    return None


def _others(reading: AskedReading, asked: Asked, draw: random.Random) -> list[str]:
    """Passages of the reading that are not gold, in the order of the text."""
    others = [passage for passage in reading.passages if passage not in asked.gold]
    places = sorted(draw.sample(range(len(others)), min(NUM_RANDOM, len(others))))
    return [others[place] for place in places]


def _record(asked: Asked, answer: Any, nats: float | None, arm: str) -> Record:
    """Plain values; what needs a gold answer is None where there is none."""
    ranks = [rank for rank, passage in enumerate(answer.found, 1) if holds(passage.text, asked.answers)]
    known, gold = asked.answerable, list(asked.answers)
    searched = known and arm in SEARCHING
    return {
        "example": asked.id,
        "kind": asked.kind,
        "answerable": known,
        "answer": answer.text,
        "gold": gold,
        "holds_answer": holds(answer.text, gold) if known else None,
        "exact_match": exact_match(answer.text, gold) if known else None,
        "f1": f1(answer.text, gold) if known else None,
        "gold_nats": nats,
        **{f"recall_at_{most}": bool(ranks and ranks[0] <= most) if searched else None for most in (1, 3, 10)},
        "stale": None if asked.stale is None else holds(answer.text, [asked.stale]),
        "confidence": answer.confidence,
        "abstained": answer.abstained,
        "prompt_tokens": answer.prompt_tokens,
        "encoded_tokens": answer.encoded_tokens,
        "seconds": answer.seconds,
    }
