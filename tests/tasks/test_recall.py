"""Recall: keys at exact places in texts of exact length, metrics worked by hand, batched equals one by one."""

from __future__ import annotations

import gzip
import json
import random
from itertools import pairwise

import pytest
import torch

from ltm.backbone.tiny import byte_tokenizer
from ltm.cli.reference_text import language_reference
from ltm.errors import ConfigError, LtmError
from ltm.methods import create_method
from ltm.tasks.data import DataSource
from ltm.tasks.recall import Recall, RecallConfig, ask, read_tokens
from ltm.tasks.recall_text import (
    NAMES,
    SENTENCES,
    Haystack,
    contains_answer,
    dictionary_reading,
    facts_reading,
    haystack_reading,
    number_pairs,
    uuid_pairs,
)
from ltm.tasks.registry import task_class
from ltm.tasks.scoring import text_tokens

TOKENIZER = byte_tokenizer()  # one token a character
DEPTHS = [0, 25, 50, 75, 100]
METHODS = {
    "full": {},
    "window": {"local_window": 96},  # less than what is read, more than a question
    "longmem": {
        "reduction_factor": 2,
        "chunk_size": 4,
        "retrieved_tokens": 8,
        "segment_size": 32,
        "local_window": 48,
        "start": "paper",
    },
}
ESSAYS = [
    "One idea came in 2004. It was small! " * 7 + 'He asked "why?" and left.',
    "Another essay. It has 12345 words? " * 9,
]


@pytest.fixture
def haystack():
    return Haystack(TOKENIZER, ESSAYS)


@pytest.fixture
def data(tmp_path):
    """A folder with essays, and one dictionary of twelve pairs."""
    for name, file, rows in (
        ("needle", "paul_graham_essays.jsonl.gz", [{"name": str(i), "text": text} for i, text in enumerate(ESSAYS)]),
        ("lost_in_the_middle", "kv-retrieval-12_keys.jsonl.gz", [{"ordered_kv_records": pairs(12)}]),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return DataSource(tmp_path)


@pytest.fixture(params=sorted(METHODS))
def method(request, tiny_backbone):
    torch.manual_seed(0)
    return create_method(request.param, tiny_backbone("tiny-llama"), **METHODS[request.param]).eval()


def pairs(count):
    return [[f"key-{i:02}", f"value-{i:02}"] for i in range(count)]


def task(data, **options):
    return Recall(RecallConfig(**{"lengths": "400", "pairs": "12", "trials": 2, **options}), data, TOKENIZER)


def test_it_is_registered():
    assert task_class("recall") is Recall


# haystacks


@pytest.mark.parametrize("lengths", [[0, 10], [50, 0], [33, 100, 7, 41], [0, 0, 0], [2000, 3, 900]])
def test_pieces_have_their_lengths_and_end_with_sentences(haystack, lengths):
    endless = TOKENIZER.decode(haystack.tokens) * 8
    for seed in range(20):
        pieces = haystack.pieces(lengths, random.Random(seed))
        assert list(map(len, pieces)) == lengths
        texts = list(map(TOKENIZER.decode, pieces))
        assert all(text in endless for text in texts)
        assert all(text.rstrip("\n")[-1:] in ("", ".", "!", "?", '"') for text in texts[:-1])


def test_pieces_go_on_where_the_last_one_ended():
    text = "".join(f"Sentence {i:04} is this one. " for i in range(300))
    pieces = Haystack(TOKENIZER, [text]).pieces([200, 300, 400, 100], random.Random(0))
    numbers = [
        [int(word) for word in TOKENIZER.decode(piece).split() if word.isdecimal() and len(word) == 4]
        for piece in pieces
    ]
    for before, after in pairwise(numbers):
        assert 1 <= (after[0] - before[-1]) % 300 <= 2  # at most a sentence is skipped


@pytest.mark.parametrize("length", [200, 333, 1500])
@pytest.mark.parametrize("depth", [*DEPTHS, 33])
def test_one_key_stands_at_its_depth(haystack, length, depth):
    reading = haystack_reading(TOKENIZER, haystack, length, [depth], random.Random(1))
    (question,), (start,) = reading.questions, reading.starts
    needle = f"\n\nThe pass key is {question.answers[0]}. Remember it. {question.answers[0]} is the pass key."
    assert len(reading.tokens) == length
    assert start == round(depth * (length - len(needle)) / 100)
    text = TOKENIZER.decode(reading.tokens)
    assert text[start : start + len(needle)] == needle
    assert text.count(question.answers[0]) == 2
    assert question.answers[0] not in question.prompt
    assert question.prompt == "\n\nWhat is the pass key? The pass key is" and question.before == " "


@pytest.mark.parametrize("length", [700, 2001])
def test_several_keys_stand_at_their_depths(haystack, length):
    reading = haystack_reading(TOKENIZER, haystack, length, DEPTHS, random.Random(2))
    text = TOKENIZER.decode(reading.tokens)
    assert len(reading.tokens) == length
    asked = [question.prompt.split("The pass key of ")[1].split()[0] for question in reading.questions]
    assert len(set(asked)) == 5 and set(asked) <= set(NAMES)
    needles = [
        f"\n\nThe pass key of {name} is {key}. Remember it. {key} is the pass key of {name}."
        for name, key in zip(asked, (question.answers[0] for question in reading.questions), strict=True)
    ]
    room = length - sum(map(len, needles))
    for index, (start, needle) in enumerate(zip(reading.starts, needles, strict=True)):
        assert text[start : start + len(needle)] == needle
        assert start == round(DEPTHS[index] * room / 100) + sum(map(len, needles[:index]))


def test_keys_in_sentences_of_their_own_stand_at_their_depths(haystack):
    reading = haystack_reading(TOKENIZER, haystack, 700, DEPTHS, random.Random(2), sentences=True)
    text = TOKENIZER.decode(reading.tokens)
    asked = [question.prompt.removeprefix("\n\n") for question in reading.questions]
    assert len(reading.tokens) == 700 and len(set(asked)) == 5 and set(asked) < set(SENTENCES)
    for sentence, start, question in zip(asked, reading.starts, reading.questions, strict=True):
        needle = f"\n\n{sentence} {question.answers[0]}. {sentence} {question.answers[0]}."
        assert text[start : start + len(needle)] == needle


def test_sentences_of_keys_share_no_word():
    words = [set(sentence.lower().split()) - {"the"} for sentence in SENTENCES]
    assert all(not one & other for place, one in enumerate(words) for other in words[:place])


@pytest.mark.parametrize("reworded", [False, True])
def test_facts_stand_once_at_their_depths(haystack, reworded):
    reading = facts_reading(TOKENIZER, haystack, 1200, DEPTHS, random.Random(4), reworded=reworded)
    text = TOKENIZER.decode(reading.tokens)
    assert len(reading.tokens) == 1200
    for start, question in zip(reading.starts, reading.questions, strict=True):
        answer, *others = question.answers
        beginning = question.prompt.removeprefix("\n\n")
        assert text.count(answer) == 1 and answer not in question.prompt and question.before == " "
        assert text[start:].partition(f" {answer}.")[0].strip().count(".") == 0  # the needle's own sentence
        assert (text.count(f" {beginning} {answer}.") == 1) == (not reworded)
        assert len(question.answers) == 10 == len(set(question.answers)) and not set(others) & {answer}


def test_facts_and_reworded_ask_for_the_same_facts(data):
    asked = [
        [unit.run.args[1]() for unit in task(data, variants=variant, lengths="1200").units()]
        for variant in ("facts", "reworded")
    ]
    for said, reworded in zip(*asked, strict=True):
        assert said.tokens == reworded.tokens
        for one, other in zip(said.questions, reworded.questions, strict=True):
            assert one.answers == other.answers and one.prompt != other.prompt


def test_answers_are_compared_with_what_else_was_read_and_with_random_keys(haystack):
    one = haystack_reading(TOKENIZER, haystack, 400, [50], random.Random(3)).questions[0]
    five = haystack_reading(TOKENIZER, haystack, 700, DEPTHS, random.Random(3)).questions
    right = {question.answers[0] for question in five}
    assert len(right) == 5
    for question in (one, *five):
        assert len(set(question.answers)) == 10 and all(len(key) == 5 for key in question.answers)
    for question in five:
        assert right <= set(question.answers)


def test_no_key_is_a_number_of_the_haystack(haystack):
    from ltm.tasks.recall_text import _draw_keys

    assert "12345" in haystack.numbers
    everything = set(map(str, range(10_000, 100_000)))
    assert _draw_keys(everything - {"12345", "54321"}, 2, random.Random(0)) in (["12345", "54321"], ["54321", "12345"])


def test_a_start_token_counts(haystack, tiny_backbone):
    class WithStart:
        bos_token_id = 257

        def __call__(self, text, add_special_tokens=True, **options):
            if isinstance(text, list):
                return TOKENIZER(text, add_special_tokens=False, **options)
            ids = TOKENIZER(text, add_special_tokens=False, **options)["input_ids"]
            return {"input_ids": [257, *ids] if add_special_tokens else ids}

    reading = haystack_reading(WithStart(), haystack, 300, [0], random.Random(0))
    assert len(reading.tokens) == 300 and reading.tokens[0] == 257 and reading.starts == [1]


def test_too_short_for_the_keys(haystack):
    with pytest.raises(LtmError, match="do not hold 5 keys; use"):
        haystack_reading(TOKENIZER, haystack, 100, DEPTHS, random.Random(0))
    with pytest.raises(LtmError, match="no text"):
        Haystack(TOKENIZER, [])


# dictionaries


def test_dictionary_by_hand():
    reading = dictionary_reading(TOKENIZER, pairs(12), [0, 50, 100], random.Random(0))
    text = TOKENIZER.decode(reading.tokens)
    assert json.loads(text[text.index("{") :]) == dict(pairs(12))
    # place 50%: round(0.5 * 11) = 6 (to even)
    assert [question.answers[0] for question in reading.questions] == ["value-00", "value-06", "value-11"]
    assert reading.questions[1].prompt == '\n\nKey: "key-06"\nCorresponding value: "'
    for question, start in zip(reading.questions, reading.starts, strict=True):
        assert f'"{question.answers[0]}"' in text[start : start + 24]
        assert len(set(question.answers)) == 10 and all(f'"{value}"' in text for value in question.answers)


@pytest.mark.parametrize("most", [400, 407, 411, 1000])
def test_as_many_whole_pairs_as_fit(most):
    drawn = number_pairs(TOKENIZER, most, random.Random(0))
    reading = dictionary_reading(TOKENIZER, drawn, [0, 100], random.Random(0), most)
    text = TOKENIZER.decode(reading.tokens)
    held = json.loads(text[text.index("{") :])
    assert most - len(',\n "12345": "67890"') < len(reading.tokens) <= most
    assert list(held.items()) == drawn[: len(held)] and list(held)[-1] in reading.questions[1].prompt


def test_pairs_are_different():
    numbers = [number for pair in number_pairs(TOKENIZER, 3000, random.Random(0)) for number in pair]
    uuids = [text for pair in uuid_pairs(40, random.Random(0)) for text in pair]
    assert len(set(numbers)) == len(numbers) > 300 and len(set(uuids)) == 80
    assert all(len(text) == 36 and text[14] == "4" for text in uuids)


def test_too_few_pairs():
    with pytest.raises(LtmError, match="room for 10 or more"):
        dictionary_reading(TOKENIZER, pairs(12), [0], random.Random(0), 150)


# scores


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (" 12345.", True),
        ("12345", True),
        ("a key: 12345\n", True),
        ("112345", False),
        ("123456", False),
        ("1234 5", False),
        ("x12345", False),
        ("", False),
    ],
)
def test_whole_answers_count(text, right):
    assert contains_answer(text, "12345") is right


def test_case_does_not_count():
    assert contains_answer('AB-C0"', "ab-c0") and not contains_answer("AB-C01", "ab-c0")


def slow_answers(method, question):
    """Each candidate in a forward of its own, in nats."""
    prompt = text_tokens(TOKENIZER, question.prompt)
    nats = []
    for answer in question.answers:
        ids = text_tokens(TOKENIZER, question.before + answer)
        with torch.no_grad():
            predictions = method(torch.tensor([[*prompt, *ids]]), memory_rows=[0]).logits[0].double().log_softmax(-1)
        nats.append(sum(float(predictions[len(prompt) - 1 + place, token]) for place, token in enumerate(ids)))
    return nats


def test_questions_together_are_those_of_one_at_a_time(method, haystack):
    reading = haystack_reading(TOKENIZER, haystack, 390, [0, 60, 100], random.Random(0))
    answers = ask(method, TOKENIZER, reading)
    for question, answer in zip(reading.questions, answers, strict=True):
        read_tokens(method, reading.tokens)
        slow = slow_answers(method, question)
        assert answer["log_likelihoods"] == pytest.approx(slow, abs=1e-3)  # float32, batched otherwise
        assert answer["nats"] == -answer["log_likelihoods"][0]
        assert answer["rank"] == 1 + sum(other > slow[0] for other in slow[1:])
        prompt = torch.tensor([text_tokens(TOKENIZER, question.prompt)])
        written = method.generate(prompt, memory_rows=[0], max_new_tokens=10, do_sample=False, eos_token_id=None)
        assert answer["written"] == TOKENIZER.decode(written[0, prompt.shape[1] :])  # space, 5 digits, 4 more
    assert len({answer["nats"] for answer in answers}) == 3


def test_what_was_read_matters(method, haystack):
    reading = haystack_reading(TOKENIZER, haystack, 390, [100], random.Random(0))
    other = haystack_reading(TOKENIZER, haystack, 390, [100], random.Random(1))
    (first,) = ask(method, TOKENIZER, reading)
    (second,) = ask(method, TOKENIZER, type(reading)(other.tokens, reading.questions, reading.starts))
    assert abs(first["nats"] - second["nats"]) > 1e-3
    assert ask(method, TOKENIZER, reading) == [first]  # nothing stays of the reading between


def test_a_tie_counts_against_the_right_answer(monkeypatch, method, haystack):
    from ltm.tasks import recall
    from ltm.tasks.scoring import PromptScore

    scores = [-2.0, -2.0, -1.0, *[-3.0] * 7]
    monkeypatch.setattr(recall, "score_continuations", lambda *_: [PromptScore(0, scores)])
    reading = haystack_reading(TOKENIZER, haystack, 200, [50], random.Random(0))
    (answer,) = ask(method, TOKENIZER, reading)
    assert (answer["rank"], answer["choice_correct"], answer["nats"]) == (3, False, 2.0)


def test_what_does_not_fit_is_not_measured(data, tiny_backbone):
    made = task(data, variants="passkey", lengths="400,500", depths="0", trials=1)  # tiny-llama has 512 positions
    method = create_method("full", tiny_backbone("tiny-llama"))
    records = [record for unit in made.units() for record in unit.run(method)]
    assert [record["fits"] for record in records] == [True, False]
    assert {row.condition["length"] for row in made.summarise(records)} == {400}


# the task


def test_units_and_their_records(data, method):
    made = task(data, depths="0,100", trials=1)
    units = list(made.units())
    assert [unit.key for unit in units] == [
        "uuid/12/depth=all/trial=0",
        "passkey/400/depth=0/trial=0",
        "passkey/400/depth=100/trial=0",
        "multi/400/depth=all/trial=0",
        "key_value/400/depth=all/trial=0",
    ]
    records = [record for unit in units for record in unit.run(method)]
    assert [(r["variant"], r["depth"]) for r in records] == [
        *(("uuid", depth) for depth in (0, 100)),
        *(("passkey", depth) for depth in (0, 100)),
        *(("multi", depth) for depth in (0, 100)),
        *(("key_value", depth) for depth in (0, 100)),
    ]
    assert [record["example"] for record in records] == [units[place].key for place in (0, 0, 1, 2, 3, 3, 4, 4)]
    assert all(unit.cost == record["length"] for unit, record in zip(units[1:3], records[2:4], strict=True))
    assert records[0]["length"] == records[0]["tokens"] == units[0].cost
    assert [record["answer"] for record in records[:2]] == ["value-00", "value-11"]
    assert json.loads(json.dumps(records)) == records
    assert {row.metric for row in made.summarise(records)} == {"accuracy", "choice_accuracy", "nats"}


def readings(made):
    return {unit.key: unit.run.args[1]() for unit in made.units()}


def test_seeds_reproduce(data):
    first, again, other = readings(task(data)), readings(task(data)), readings(task(data, seed=1))
    assert first == again and len(first) == 2 * (1 + 5 + 1 + 1)
    assert list(first) == list(other)
    assert [key for key in first if first[key].tokens == other[key].tokens] == ["uuid/12/depth=all/trial=0"]
    assert len({tuple(reading.tokens) for reading in first.values()}) == len(first)  # trials differ


def test_dictionaries_without_a_file_are_drawn(data):
    held = readings(task(data, variants="uuid", pairs="11,12"))
    assert held["uuid/12/depth=all/trial=0"].questions[0].answers[0] == "value-00"
    for key in ("uuid/11/depth=all/trial=0", "uuid/12/depth=all/trial=1"):
        assert len(held[key].questions[0].answers[0]) == 36


def record(variant, depth, correct, choice_correct, nats):
    fields = {"variant": variant, "length": 400, "depth": depth, "trial": 0, "fits": True}
    return {**fields, "correct": correct, "choice_correct": choice_correct, "nats": nats}


def test_summary_by_hand(data):
    records = [
        record("multi", 0, False, False, 9.0),
        record("passkey", 50, True, True, 1.0),
        record("passkey", 0, False, True, 3.0),
        record("passkey", 0, False, False, 8.0),
        {"variant": "passkey", "length": 800, "depth": 0, "trial": 0, "fits": False},
    ]
    table = {
        (tuple(row.condition.values()), row.metric): (row.value, row.count) for row in task(data).summarise(records)
    }
    assert table == {
        (("passkey", 400), "accuracy"): (pytest.approx(1 / 3), 3),
        (("passkey", 400), "choice_accuracy"): (pytest.approx(2 / 3), 3),
        (("passkey", 400), "nats"): (4.0, 3),
        (("multi", 400), "accuracy"): (0.0, 1),
        (("multi", 400), "choice_accuracy"): (0.0, 1),
        (("multi", 400), "nats"): (9.0, 1),
        (("passkey", 400, 0), "accuracy"): (0.0, 2),
        (("passkey", 400, 0), "choice_accuracy"): (0.5, 2),
        (("passkey", 400, 0), "nats"): (5.5, 2),
        (("passkey", 400, 50), "accuracy"): (1.0, 1),
        (("passkey", 400, 50), "choice_accuracy"): (1.0, 1),
        (("passkey", 400, 50), "nats"): (1.0, 1),
        (("multi", 400, 0), "accuracy"): (0.0, 1),
        (("multi", 400, 0), "choice_accuracy"): (0.0, 1),
        (("multi", 400, 0), "nats"): (9.0, 1),
    }
    first = task(data).summarise(records)[0]
    # Wilson's interval of 1 of 3: (1/3 + z^2/6 +- z sqrt(2/27 + z^2/36)) / (1 + z^2/3)
    assert (first.low, first.high) == (pytest.approx(0.0615, abs=1e-4), pytest.approx(0.7923, abs=1e-4))


def test_wrong_configs():
    with pytest.raises(ConfigError, match="variants=needle.*depths=50,0.*trials=0"):
        RecallConfig(variants="needle,multi", depths="50,0", trials=0)
    with pytest.raises(ConfigError, match="percentages"):
        RecallConfig(depths="0,101")
    with pytest.raises(ConfigError, match="10 or fewer"):
        RecallConfig(depths=",".join(map(str, range(11))))
    with pytest.raises(ConfigError, match="pairs=9"):
        RecallConfig(pairs="9")


@pytest.mark.slow
def test_a_small_real_model_writes_a_key_that_it_can_see():
    from ltm.backbone import load_backbone

    backbone = load_backbone("smollm2-135m")
    method = create_method("full", backbone).eval()
    haystack = Haystack(backbone.tokenizer, [language_reference()])
    reading = haystack_reading(backbone.tokenizer, haystack, 300, [50], random.Random(0))
    (answer,) = ask(method, backbone.tokenizer, reading)
    assert answer["correct"] and answer["choice_correct"]
