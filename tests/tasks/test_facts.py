"""Facts said once: two wordings of every form, no answer that stands in the text, none twice, the same by seed."""

from __future__ import annotations

import random
from string import Formatter

import pytest

from ltm.tasks.facts import FORMS, PEOPLE, PLACES, POOLS, THINGS, draw_facts


def slots(wording):
    return {name for _, name, _, _ in Formatter().parse(wording) if name}


@pytest.mark.parametrize("form", FORMS)
def test_both_wordings_of_a_form_say_enough_to_tell_the_fact(form):
    kind, one, other = form
    assert one != other and kind in POOLS
    assert slots(one) and slots(other) and slots(one) | slots(other) <= {"person", "place", "thing"}
    for wording in (one, other):
        assert wording[-1] not in ".!? " and (kind == "person" or kind not in slots(wording))


def test_every_kind_has_forms_and_names():
    assert {form[0] for form in FORMS} == set(POOLS)
    assert len({form[1:] for form in FORMS}) == len(FORMS) > 20
    assert len(PEOPLE) > 2000 and len(PLACES) > 40 and len(THINGS) > 200


def test_facts_share_nothing_and_avoid_what_the_text_has():
    taken = {"brass", "adaeze", "kettle", "reykjavik"}
    for seed in range(30):
        facts = draw_facts(5, 10, taken, random.Random(seed))
        answers = [fact.answers[0] for fact in facts]
        assert len(set(answers)) == 5
        for fact in facts:
            assert fact.text == f"{fact.beginning} {fact.answers[0]}." and fact.other_beginning != fact.beginning
            assert len(set(fact.answers)) == 10
            assert not {word for answer in fact.answers for word in answer.lower().split()} & taken


def test_other_facts_answers_are_among_the_choices():
    facts = draw_facts(20, 10, (), random.Random(0))
    places = [fact.answers[0] for fact in facts if fact.answers[0] in PLACES]
    assert len(places) > 1
    assert all(set(places) <= set(fact.answers) for fact in facts if fact.answers[0] in PLACES)


def test_the_seed_decides():
    assert draw_facts(5, 10, (), random.Random(3)) == draw_facts(5, 10, (), random.Random(3))
    assert draw_facts(5, 10, (), random.Random(3)) != draw_facts(5, 10, (), random.Random(4))
