"""Books with planted facts: each said as often and in the order it has to be, the gold passage around it."""

from __future__ import annotations

import random

from ltm.tasks.ask.planted import _reading, tell
from ltm.tasks.ask.readings import holds
from ltm.tasks.recall_text import Haystack

STORY = "The boat went down the river slowly. Nobody saw it that night. A dog barked, and then it was quiet! "


class Letters:
    """A token a character."""

    def __call__(self, text, **_):
        one = [text] if isinstance(text, str) else text
        ids = [list(map(ord, own)) for own in one]
        return {"input_ids": ids[0] if isinstance(text, str) else ids}

    def decode(self, ids):
        return "".join(map(chr, ids))


def test_what_changes_is_said_in_order_and_no_two_share_an_answer():
    for seed in range(20):
        told = tell(4, set(), random.Random(seed))
        assert len(told.sentences) == 4 + 2 * 4 + 2 * 4 and len(told.questions) == 4 * 2 + 4 + 4
        kinds = [asked.kind for asked, _ in told.questions]
        assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
            ("same words", "other words", "changed", "two-hop"), 4
        )
        for asked, places in told.questions:
            saying = [n for n, sentence in enumerate(told.sentences) if holds(sentence, asked.answers)]
            assert places[-1] in saying or asked.kind == "two-hop" and set(places) & set(saying)
            if asked.stale:
                (old,) = [n for n, sentence in enumerate(told.sentences) if holds(sentence, [asked.stale])]
                assert old < places[0] and not holds(told.sentences[places[0]], [asked.stale])


def test_a_book_says_all_of_it_and_gold_passages_stand_in_it():
    haystack = Haystack(Letters(), [STORY * 400])
    reading = _reading(Letters(), haystack, 20_000, 4, random.Random(1))
    assert 15_000 < len(reading.text) <= 20_500
    for asked in reading.asked:
        assert asked.gold and holds(" ".join(asked.gold), asked.answers)
        assert all(passage in reading.text for passage in asked.gold)
        assert all(len(passage) < 500 for passage in asked.gold)
    again = _reading(Letters(), haystack, 20_000, 4, random.Random(1))
    assert again == reading
