"""Facts said once: two wordings of every form, no answer that stands in the text, none twice, the same by seed."""

from __future__ import annotations

import random
from string import Formatter

import pytest

from ltm.tasks.facts import FORMS, PEOPLE, PLACES, POOLS, QUESTIONS, THINGS, TWO_HOP, draw_facts, draw_two_hops


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


@pytest.mark.parametrize("form", FORMS)
def test_a_question_says_all_that_its_wording_says(form):
    for wording in form[1:]:
        assert QUESTIONS[wording].endswith("?") and slots(QUESTIONS[wording]) == slots(wording)


def test_questions_are_in_the_words_of_the_sentence_and_in_others():
    (fact,) = draw_facts(1, 4, set(), random.Random(3))
    words = set(fact.beginning.lower().split())
    shared, others = (len(words & set(asked.lower().split())) for asked in (fact.question, fact.other_question))
    assert fact.question != fact.other_question and shared >= others


@pytest.mark.parametrize("form", TWO_HOP)
def test_two_sentences_are_needed_for_a_question(form):
    kind, (first, second), question = form
    assert kind in POOLS and "answer" not in slots(first) and "answer" in slots(second)
    (link,) = slots(first) & slots(second)
    assert link not in slots(question) and slots(question) == slots(first) - {link}


def test_two_hops_avoid_what_is_said():
    (drawn,) = draw_two_hops(1, set(), "", random.Random(0))
    said = " ".join(drawn.sentences)
    (other,) = draw_two_hops(1, set(), said, random.Random(0))
    assert drawn.answer in said and other.answer not in said
