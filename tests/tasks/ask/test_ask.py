"""Questions about what was read: what each arm is handed, what a record says, which rows come of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from ltm.bench import Plan, parse_methods, parse_tasks, run_plan
from ltm.data.passages import Passage
from ltm.errors import ConfigError
from ltm.tasks.ask.config import ARMS, TEXTS, AskConfig
from ltm.tasks.ask.readings import holds
from ltm.tasks.ask.tables import auroc, recovered_share, table
from ltm.tasks.ask.task import ALL_SOURCES, INSTRUCTION, Ask
from ltm.tasks.data import DataSource

TITLES = ("Alps", "Boats", "Cats", "Drums")


@dataclass
class FakeAnswer:
    text: str
    found: list = field(default_factory=list)
    confidence: float | None = None
    abstained: bool = False
    prompt_tokens: int = 7
    encoded_tokens: int = 5
    seconds: float = 0.5


class FakeSession:
    """Answers with what it was given, or with what stands in its second passage; window: what a whole text needs;
    capacity: what can be read; recall_modes: what its answers can have."""

    def __init__(self, window=None, capacity=None, recall_modes=("both", "text", "memory", "off")):
        self.window, self.capacity, self.recall_modes = window, capacity, recall_modes
        self.calls, self.texts = [], []

    def reset(self):
        self.texts = []

    def read(self, text, name):
        self.texts.append((name, text))

    def ask_all(self, questions, *, given=None, recall="both", **how):
        self.calls.append((recall, given, how, list(questions)))
        if recall in ("both", "text"):
            first, second = (part for _, text in self.texts for part in text.split("\n\n")[:2])
            found = [Passage("a", 0, 1, first, 1.0), Passage("a", 1, 2, second, 1.0)]
            return [FakeAnswer(second, found, 0.9 if "passage" in one else 0.2) for one in questions]
        return [FakeAnswer("nothing" if given is None else " ".join(given[n])) for n in range(len(questions))]

    def answer_likelihoods(self, question, answers, *, given=None, **how):
        return [-3.0 for _ in answers]


class Words:
    """A token a word."""

    bos_token_id = eos_token_id = None
    is_fast = False

    def __call__(self, text, **_):
        return {"input_ids": [1] * len(text.split())}


@pytest.fixture
def data(tmp_path):
    """Articles of two passages, each with a question that the second passage answers."""
    (tmp_path / "squad").mkdir()
    rows = []
    for title in TITLES:
        for number in (1, 2):
            context = f"About {title} in passage {number} stands word{number}{title} alone."
            answer = {"text": f"word{number}{title}", "answer_start": context.index("word")}
            question = f"Which word of {title} has passage {number}?"
            row = {"id": f"{title}{number}", "title": title, "context": context, "question": question}
            rows.append(json.dumps({**row, "answers": [answer]}))
    (tmp_path / "squad" / "dev-v1.1.jsonl").write_text("\n".join(rows))
    source = DataSource(tmp_path)
    source.json_lines = lambda *_: map(json.loads, rows)
    return source


@pytest.fixture
def tokens(monkeypatch):
    monkeypatch.setattr("ltm.tasks.ask.task.text_tokens", lambda _, text: text.split())
    monkeypatch.setattr("ltm.tasks.ask.texts.text_tokens", lambda _, text: text.split())


def records_of(data, session, **config):
    task = Ask(AskConfig(**{"arms": ",".join(ARMS), **config}), data, Words())
    units = list(task.units())
    return task, units, [record for unit in units for record in unit.run(session)]


def test_an_article_is_read_whole_and_each_arm_gets_its_own(data, tokens):
    session = FakeSession()
    _, units, records = records_of(data, session)
    assert [unit.key.split("/")[0] for unit in units] == ["squad", "squad"] and units[0].cost > 10
    assert [call[0] for call in session.calls[:7]] == ["off", "memory", "text", "both", "off", "off", "off"]
    assert {call[2]["instruction"] for call in session.calls} == {INSTRUCTION}, "the same words in every arm"
    none, memory, text, both, gold, random, full = (call[1] for call in session.calls[:7])
    assert none is memory is text is both is None
    assert [len(one) for one in gold] == [1, 1] and all(a != b for a, b in zip(gold, random, strict=True))
    whole = session.calls[6][1][0][0]
    assert all(passage in whole for one in [*gold, *random] for passage in one)
    right = {arm: [r["holds_answer"] for r in records if r["arm"] == arm] for arm in ARMS}
    assert not any(right["none"] + right["random"]) and all(right["gold"] + right["full"])
    assert right["text"] == [False, True] * 2
    one = next(r for r in records if r["arm"] == "text" and r["holds_answer"])
    assert (one["recall_at_1"], one["recall_at_3"], one["gold_nats"]) == (False, True, -3.0)
    assert next(r for r in records if r["arm"] == "gold")["recall_at_1"] is None


def test_a_text_that_does_not_fit_is_not_shown_whole(data, tokens):
    _, _, records = records_of(data, FakeSession(window=260))
    assert {record["arm"] for record in records} == set(ARMS) - {"full"}


def test_what_a_method_cannot_hold_is_not_read_and_not_asked_of_its_memory(data, tokens):
    session = FakeSession(capacity=260)
    _, _, records = records_of(data, session)
    assert session.texts == [] and {record["arm"] for record in records} == {"none", "gold", "random", "full"}


def test_arms_that_a_session_does_not_tell_apart_are_left_out(data, tokens):
    _, _, records = records_of(data, FakeSession(recall_modes=("text", "off")))
    assert {record["arm"] for record in records} == set(ARMS) - {"memory", "both"}


def test_nothing_is_read_where_no_arm_needs_it(data, tokens):
    session = FakeSession()
    _, _, records = records_of(data, session, arms="none,gold,full")
    assert session.texts == [] and len(records) == 12


def test_questions_of_other_articles_are_asked_where_something_is_looked_for(data, tokens):
    session = FakeSession()
    task, _, records = records_of(data, session, foreign=True)
    foreign = [record for record in records if not record["answerable"]]
    assert {record["arm"] for record in foreign} == {"text", "both"} and len(foreign) == 8
    assert all(record["holds_answer"] is None and record["gold_nats"] is None for record in foreign)
    for record in foreign:
        record["confidence"] = 0.1
    rows = {(row.metric, row.condition["arm"]): row for row in task.summarise(records)}
    assert rows["answerable_auroc", "both"].value == 1.0
    assert rows["recovered_share", "text"].value == 0.5 and rows["recovered_share", "memory"].value == 0
    assert ("recovered_share", "gold") not in rows and rows["holds_answer", "gold"].value == 1
    assert rows["seconds", "none"].higher_is_better is False


def test_the_other_half_is_for_choosing_how_to_ask(data, tokens):
    halves = [{unit.key for unit in Ask(AskConfig(half=half), data, Words()).units()} for half in ("tune", "test")]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == len(TITLES)


def test_many_articles_are_one_memory_as_far_as_there_is_room(data, tokens):
    ((unit,), (small,)) = (
        list(Ask(AskConfig(texts="many", max_tokens=most), data, Words()).units()) for most in (1000, 20)
    )
    reading = unit.run.args[0].readings[0]
    assert len(reading.documents) == 4 and len(reading.asked) == 4, "the other half is read and not asked about"
    assert len(small.run.args[0].readings[0].documents) == 1 and len(small.run.args[0].readings[0].asked) == 2


@pytest.mark.parametrize(
    "values", [{"texts": "poems"}, {"arms": ""}, {"half": "third"}, {"lengths": "5"}, {"questions": 0}, {"facts": 9}]
)
def test_wrong_values_are_refused_by_name(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        AskConfig(**values)


def test_every_text_has_its_source():
    assert tuple(ALL_SOURCES) == TEXTS


def test_an_answer_is_held_as_whole_words():
    assert holds("In The Red, Barn!", ["the red barn"]) and not holds("1900s", ["1900"])
    assert not holds("anything", ["the", "..."]), "an answer without words is held by nothing"


def test_recovered_share_by_hand():
    share = recovered_share([0, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1])
    assert share.value == 0.5 and share.low <= 0.5 <= share.high
    assert recovered_share([1, 0], [1, 1], [0, 1]) is None, "gold is no better than nothing"


def test_auroc_by_hand():
    assert auroc([3, 2], [1, 2]).value == 0.875
    assert auroc([1.0], [1.0]).value == 0.5


def test_kinds_stand_alone_after_all_together():
    base = {"text": "planted", "length": 4096, "reading": "r", "arm": "both", "answerable": True, "confidence": None}
    records = [
        {**base, "example": kind, "kind": kind, "holds_answer": kind == "changed", "stale": kind == "changed" or None}
        for kind in ("changed", "two-hop")
    ]
    for record in records:
        record.update(dict.fromkeys(("exact_match", "f1", "gold_nats", "seconds", "prompt_tokens", "encoded_tokens")))
        record.update(dict.fromkeys(("recall_at_1", "recall_at_3", "recall_at_10")))
    rows = [(row.condition["kind"], row.metric, row.value) for row in table(records, ["both"])]
    assert rows[0] == ("all", "holds_answer", 0.5) and ("changed", "holds_answer", 1.0) in rows
    assert ("changed", "stale", 1.0) in rows and ("two-hop", "stale", 0.0) not in rows


def test_lengths_come_together_after_each_alone():
    nothing = dict.fromkeys(("exact_match", "f1", "gold_nats", "seconds", "prompt_tokens", "encoded_tokens", "stale"))
    nothing.update(dict.fromkeys(("recall_at_1", "recall_at_3", "recall_at_10")))
    base = {"text": "planted", "kind": "all", "arm": "both", "answerable": True, "confidence": None, "example": "e"}
    asked = [(4096, True), (16384, True), (16384, False), (16384, False)]
    records = [
        {**base, **nothing, "length": length, "reading": str(number), "holds_answer": right}
        for number, (length, right) in enumerate(asked)
    ]
    rows = [(row.condition.get("length"), row.value, row.count) for row in table(records, ["both"])]
    assert rows == [(4096, 1.0, 1), (16384, 1 / 3, 3), (None, 0.5, 4)]


def test_a_session_on_a_method_is_asked(data, tiny_backbone, tmp_path):
    specs = parse_tasks("ask", ["ask.articles=1", "ask.max_new_tokens=2"]), parse_methods("em_llm,rag:encoder=hash")
    backbone = tiny_backbone("tiny-llama")
    backbone.tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }}\n{% endfor %}"
    plan = Plan(*specs, backbone, data, window=512)
    em_llm, rag = run_plan(plan, tmp_path / "out")
    assert not em_llm.failed, em_llm.facts["error"]
    assert {record["arm"] for record in em_llm.records} >= {"none", "memory", "text", "both", "gold", "random"}
    found = [record for record in em_llm.records if record["arm"] == "both"]
    assert all(record["recall_at_10"] and record["confidence"] is not None for record in found)
    assert all(record["gold_nats"] < 0 for record in em_llm.records)
    assert not rag.failed, rag.facts["error"]
    assert {record["arm"] for record in rag.records} == {"none", "text", "gold", "random", "full"}
    assert all(record["gold_nats"] < 0 and record["prompt_tokens"] for record in rag.records)
    assert all(record["recall_at_10"] for record in rag.records if record["arm"] == "text")
    asked = [{r["example"]: r for r in own.records if r["arm"] == "gold"} for own in (em_llm, rag)]
    assert asked[0].keys() == asked[1].keys()
    for name, mine in asked[0].items():
        assert mine["answer"] == asked[1][name]["answer"] and mine["prompt_tokens"] == asked[1][name]["prompt_tokens"]
