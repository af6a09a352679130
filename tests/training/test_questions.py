"""Question documents: every answer follows its own question and passage, in one frame a document."""

from __future__ import annotations

import re

import pytest

from ltm.errors import LtmError
from ltm.training import Answered, question_documents

ASKED = [
    Answered(f"It is known that p{n} holds, and a{n} with it.", f"what holds with q{n}", f"a{n}") for n in range(200)
]


def test_same_arguments_give_the_same():
    documents = question_documents(ASKED, 4, num_chars=3_000)
    assert question_documents(ASKED, 4, num_chars=3_000) == documents
    assert question_documents(ASKED, 4, num_chars=3_000, seed=1) != documents
    assert len({document.name for document in documents}) == 4


def test_answers_are_of_their_questions_and_come_last():
    for document in question_documents(ASKED, 20, num_chars=3_000):
        asked = re.findall(r"\bq(\d+)\b", document.text)
        assert len(asked) == len(set(asked)) > 20
        assert re.findall(r"\bp(\d+)\b", document.text) == asked
        assert re.findall(r"\ba(\d+)\n", document.text) == asked
        for n in asked:
            answer = document.text.index(f"a{n}\n")
            assert document.text.index(f"q{n}") < answer
            assert document.text.index(f"p{n}") < answer


def test_lengths():
    for document in question_documents(ASKED, 10, num_chars=3_000):
        assert 3_000 <= len(document.text) < 3_200


def test_one_frame_in_a_document_and_many_among_them():
    documents = question_documents(ASKED, 30, num_chars=1_000)
    names = [set(re.findall(r"(\w+)\W* a\d+\n", document.text)) for document in documents]
    assert all(len(found) == 1 for found in names)
    assert len(set.union(*names)) > 8


def test_ends_where_questions_do():
    (document,) = question_documents(ASKED[:2], 1)
    assert document.text.count("what holds") == 2


def test_no_questions():
    with pytest.raises(LtmError, match="no questions"):
        question_documents([], 1)
