"""Conversations, stories and meetings: what is read, what is asked, where the answer stands."""

from __future__ import annotations

import gzip
import json

import pytest

from ltm.tasks.ask.config import AskConfig
from ltm.tasks.ask.texts import GOLD_WORDS, babi, locomo, qmsum
from ltm.tasks.data import DataSource


@pytest.fixture
def folder(tmp_path):
    """folder(set, file, lines) -> DataSource of that file."""

    def make(name, file, objects):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_bytes(gzip.compress("\n".join(map(json.dumps, objects)).encode()))
        return DataSource(tmp_path)

    return make


def test_a_conversation_is_a_document_a_session_and_category_5_has_no_answer(folder):
    turns = [{"dia_id": f"D1:{n}", "speaker": "Ann", "text": text} for n, text in enumerate(("Hi.", "I sail."), 1)]
    talk = {"speaker_a": "Ann", "session_1": turns, "session_1_date_time": "8 May", "session_2_date_time": "9 May"}
    qa = [
        {"question": "Who sails?", "answer": 2022, "evidence": ["D1:2; D9:9"], "category": 2},
        {"question": "Who flies?", "adversarial_answer": "Ann", "evidence": ["D1:1"], "category": 5},
    ]
    data = folder("locomo", "locomo10.json.gz", [[{"sample_id": "c", "qa": qa, "conversation": talk}]])
    (unit,) = locomo(AskConfig(), data, None)
    (reading,) = unit.readings
    assert reading.documents == [("session 1, 8 May", "Ann: Hi.\nAnn: I sail.")]
    known, unknown = reading.asked
    assert (known.answers, known.gold, known.kind) == (("2022",), ("8 May\nAnn: I sail.",), "category 2")
    assert known.answerable and not unknown.answerable and unknown.kind == "category 5"


def test_a_story_is_read_up_to_its_last_question(folder):
    lines = [
        {"n": 1, "text": "Ann took the ball."},
        {"n": 2, "question": "Who has it?", "answer": "Ann", "supporting": [1]},
        {"n": 3, "text": "Ann took the milk."},
        {"n": 4, "question": "What has Ann?", "answer": "ball,milk", "supporting": [1, 3]},
        {"n": 5, "text": "The end."},
    ]
    data = folder("babi", "en-test.jsonl.gz", [{"task": "8", "lines": lines}, {"task": "10", "lines": lines}])
    first, _ = units = list(babi(AskConfig(questions=3), data, None))
    assert [unit.key for unit in units] == ["babi/8", "babi/10"]
    (reading,) = first.readings
    assert reading.text == "Ann took the ball.\nAnn took the milk."
    assert reading.asked[0].answers == ("ball, milk",) and reading.asked[0].gold == (reading.text,)


def test_a_meetings_gold_are_the_turns_of_its_spans(folder):
    said = [{"speaker": "A", "content": f"turn{n} " + "so " * 200} for n in range(4)]
    query = {"query": "Why?", "answer": "Because.", "relevant_text_span": [["1", "2"]]}
    data = folder("qmsum", "test.jsonl.gz", [{"meeting_transcripts": said, "specific_query_list": [query]}])
    (unit,) = qmsum(AskConfig(), data, None)
    (gold,) = unit.readings[0].asked[0].gold
    assert gold.startswith("A: turn1") and "A: turn2" in gold and len(gold.split()) == GOLD_WORDS
