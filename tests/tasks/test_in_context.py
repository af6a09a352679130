"""The in-context task on a small made-up set: what is drawn, written, scored and summed up."""

from __future__ import annotations

import csv
import gzip
from types import SimpleNamespace

import pytest
import torch

from ltm.errors import ConfigError, LtmError
from ltm.methods import create_method
from ltm.tasks import in_context
from ltm.tasks.comma_lists import numbers
from ltm.tasks.data import DataSource
from ltm.tasks.in_context import DATASETS, InContext, InContextConfig, begins, load_set
from ltm.tasks.intervals import t_interval, wilson_interval
from ltm.tasks.registry import TASKS
from ltm.tasks.scoring import PromptScore

METHODS = {
    "full": {},
    "window": {"local_window": 96},  # smaller than what is read and than some prompts
    "longmem": {
        "reduction_factor": 2,
        "chunk_size": 4,
        "retrieved_tokens": 8,
        "segment_size": 32,
        "local_window": 96,
        "start": "paper",
    },
}
TINY = {"datasets": "sst2", "local": "2", "remembered": "0,5", "seeds": 2, "examples": 6}


def write_set(folder, name, rows):
    (folder / "icl").mkdir(exist_ok=True)
    with gzip.open(folder / "icl" / f"{name}.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("text", "label", "split"), *rows])


def rows_of(name, count=30):
    """Training texts of several lengths, and ten test texts of which one is among them in other letters."""
    form = DATASETS[name]
    labels = [form.labels[index % len(form.labels)] for index in range(count)]
    train = [(f"train {index} {'so ' * (index % 5)}", label, "train") for index, label in enumerate(labels)]
    tests = [(f"test {index}{' very' * (index % 4)}", labels[index], form.test_split) for index in range(9)]
    return [*train, *train[:3], *tests, ("TRAIN  7 so so", labels[7], form.test_split)]


@pytest.fixture
def data(tmp_path):
    for name in ("sst2", "subj"):
        write_set(tmp_path, name, rows_of(name))
    return DataSource(tmp_path)


@pytest.fixture
def make(data, tiny_backbone):
    """make(**options) -> the task."""

    def make(**options):
        config = InContextConfig(**{**TINY, **options})
        return InContext(config, data, tiny_backbone("tiny-llama").tokenizer)

    return make


def run_all(task, method):
    return [record for unit in task.units() for record in unit.run(method)]


@pytest.fixture(params=sorted(METHODS))
def method(request, tiny_backbone):
    torch.manual_seed(0)
    return create_method(request.param, tiny_backbone("tiny-llama"), **METHODS[request.param]).eval()


@pytest.fixture
def spy(tiny_backbone, monkeypatch):
    """A method with its backbone's tokenizer, and the texts that it reads."""
    method = create_method("full", tiny_backbone("tiny-llama"))
    read, texts = method.read, []

    def note(ids, **options):
        texts.append(method.backbone.tokenizer.decode(ids[0]))
        read(ids, **options)

    monkeypatch.setattr(method, "read", note)
    return SimpleNamespace(method=method, texts=texts)


@pytest.mark.parametrize(
    "said, label, right",
    [
        ("positive", "positive", True),
        ("pos", "positive", True),  # the released rule takes the beginning of a label
        ("g", "great", True),
        ("", "positive", False),
        ("negative", "positive", False),
        ("positively", "positive", False),
        ("Positive", "positive", False),
        ("itive", "positive", False),
    ],
)
def test_the_argmax_rule(said, label, right):
    assert begins(said, label) is right


def test_prompts_read_as_in_the_paper(make, tiny_backbone):
    task, form = make(), DATASETS["sst2"]
    shown = [
        in_context.Example("train/0", "a fine film", "positive"),
        in_context.Example("train/1", "dull", "negative"),
    ]
    asked = [in_context.Example("validation/0", "not bad", "positive")]
    (prompt,) = task._prompts(form, shown, asked, follows=False)
    expected = "Review: a fine film Sentiment: positive. Review: dull Sentiment: negative. Review: not bad Sentiment:"
    assert task.tokenizer.decode(prompt) == expected
    (after_reading,) = task._prompts(form, shown, asked, follows=True)
    assert task.tokenizer.decode(after_reading) == f" {expected}"
    (alone,) = task._prompts(form, [], asked, follows=False)
    assert task.tokenizer.decode(alone) == "Review: not bad Sentiment:"
    assert DATASETS["subj"].question(asked[0]) == "Input: not bad Type:"


def test_no_test_text_is_among_the_demonstrations_and_none_twice(data):
    drawn = load_set("sst2", data, examples=None)
    plain = ["".join(example.text.lower().split()) for example in drawn.pool]
    tests = {"".join(example.text.lower().split()) for example in drawn.test}
    assert len(drawn.test) == 10 and "train7soso" in tests
    assert len(plain) == len(set(plain)) == 29  # 30 of which one is a test text; the three repeated ones once
    assert not tests & set(plain)


def test_a_text_outside_of_the_drawn_test_examples_is_no_demonstration_either(data):
    drawn = load_set("sst2", data, examples=1)
    assert len(drawn.test) == 1 and len(drawn.pool) == 29


def test_test_examples_are_the_same_at_every_call(data):
    assert load_set("sst2", data, 6).test == load_set("sst2", data, 6).test
    assert load_set("sst2", data, 6).test != load_set("sst2", data, None).test[:6]


def test_draws_repeat_and_nest_and_never_overlap(data):
    drawn = load_set("sst2", data, None)
    shown, kept = drawn.draw(seed=1, local=4, remembered=20)
    assert (shown, kept) == drawn.draw(seed=1, local=4, remembered=20)
    assert shown != drawn.draw(seed=2, local=4, remembered=20)[0]
    more, _ = drawn.draw(seed=1, local=9, remembered=20)
    _, fewer = drawn.draw(seed=1, local=4, remembered=5)
    assert more[:4] == shown and kept[-5:] == fewer
    assert not {example.id for example in more} & {example.id for example in kept}


def test_more_demonstrations_than_there_are_is_an_error(data):
    with pytest.raises(LtmError, match="29 training texts"):
        load_set("sst2", data, None).draw(seed=1, local=10, remembered=20)


def test_units_have_own_keys_and_every_condition(make):
    units = list(make(datasets="sst2,subj", local="1,2").units())
    assert len(units) == len({unit.key for unit in units}) == 2 * 2 * 2
    assert units[0].key == "sst2/remembered=0/seed=1"
    assert {unit.key.split("seed=")[1] for unit in units[:4]} == {"1"}  # a stopped run has whole seeds
    assert all(unit.cost > 0 for unit in units)


def test_batches_give_what_single_prompts_give(make, method):
    one_by_one = run_all(make(batch_size=1), method)
    assert run_all(make(batch_size=4), method) == one_by_one
    assert len(one_by_one) == 2 * 2 * 6
    assert {record["read"] for record in one_by_one} == {0, 5}


def test_a_unit_forgets_what_was_there_before(make, method):
    unit = list(make().units())[1]
    first = unit.run(method)
    method.read(torch.randint(5, 90, (1, 60)), memory_rows=torch.tensor([0]))
    assert unit.run(method) == first


def test_what_is_read_is_one_text_of_the_demonstrations(make, spy):
    task = make(remembered="2")
    next(iter(task.units())).run(spy.method)
    kept = load_set("sst2", task.data, 6).draw(seed=1, local=2, remembered=2)[1]
    assert spy.texts == [" ".join(f"Review: {example.text} Sentiment: {example.label}." for example in kept)]


def test_what_is_remembered_is_read_once_for_all_counts_in_the_prompt(make, spy):
    task = make(local="1,3", remembered="4")
    records = next(iter(task.units())).run(spy.method)
    assert len(spy.texts) == 1 and [r["local"] for r in records] == [1] * 6 + [3] * 6
    alone = next(iter(make(local="3", remembered="4").units())).run(spy.method)
    assert [r for r in records if r["local"] == 3] == alone


def test_full_context_reads_the_last_demonstrations_that_fit(make, spy):
    records = next(iter(make(remembered="20").units())).run(spy.method)
    (read,) = {record["read"] for record in records}
    assert 0 < read < 20
    kept = load_set("sst2", make().data, 6).draw(seed=1, local=2, remembered=20)[1]
    assert spy.texts[0].count("Review:") == read and spy.texts[0].endswith(f"Sentiment: {kept[-1].label}.")


def test_records_hold_both_scores(make, spy, monkeypatch):
    task = make(examples=None)
    next_tokens = [*"pnpnpnpnp", "\n"]

    def score(method, prompts, labels, batch_size):
        assert [task.tokenizer.decode(label) for label in labels[0]] == [" negative", " positive"]
        tokens = [task.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in next_tokens]
        return [PromptScore(token, [-1.0, -2.0]) for token in tokens]  # negative is always the likelier label

    monkeypatch.setattr(in_context, "score_continuations", score)
    records = next(iter(task.units())).run(spy.method)
    assert [r["gold"] for r in records] == ["negative", "positive"] * 4 + ["negative", "positive"]
    assert [r["argmax"] for r in records] == [*"pnpnpnpnp", ""]
    assert not any(r["argmax_correct"] for r in records)  # always the other label's letter, or nothing
    assert [r["likelihood_correct"] for r in records] == [True, False] * 5


def record(dataset, seed, argmax, likelihood=False, local=2, remembered=0):
    condition = {"dataset": dataset, "seed": seed, "local": local, "remembered": remembered, "read": remembered}
    return {**condition, "argmax_correct": argmax, "likelihood_correct": likelihood}


def test_summary_by_hand(make):
    task = make(datasets="sst2,subj")
    records = [record("sst2", 1, True), record("sst2", 1, True), record("sst2", 2, True), record("sst2", 2, False)]
    records += [record("subj", 1, False), record("subj", 1, True), record("subj", 2, False), record("subj", 2, False)]
    rows = {(row.condition["dataset"], row.metric): row for row in task.summarise(records)}
    sst2 = rows["sst2", "argmax_accuracy"]
    assert sst2.value == t_interval([1.0, 0.5]).value and (sst2.low, sst2.high) == (0.0, 1.0)  # no share is 3.9
    assert sst2.count == 4 and sst2.extra == {"seeds": 2, "read": 0}
    average = rows["average", "argmax_accuracy"]
    assert average.value == t_interval([0.75, 0.25]).value and (average.low, average.high) == (0.0, 1.0)
    assert rows["subj", "likelihood_accuracy"].value == 0
    assert average.condition == {"dataset": "average", "local": 2, "remembered": 0}


def test_summary_of_one_seed_is_over_examples_and_of_part_of_the_sets_without_average(make):
    rows = make(datasets="sst2,subj").summarise([record("sst2", 1, True), record("sst2", 1, False)])
    assert {row.condition["dataset"] for row in rows} == {"sst2"}
    assert (rows[0].value, rows[0].low, rows[0].high) == wilson_interval(1, 2)


def test_the_average_takes_seeds_that_all_sets_have(make):
    records = [record("sst2", 1, True), record("sst2", 2, False), record("subj", 1, True)]
    average = [row for row in make(datasets="sst2,subj").summarise(records) if row.condition["dataset"] == "average"]
    assert average[0].value == 1 and average[0].count == 2


def test_wrong_configurations_are_refused_together():
    with pytest.raises(ConfigError, match=r"datasets=nli.*seeds=0"):
        InContextConfig(datasets="sst2,nli", seeds=0)
    with pytest.raises(ConfigError, match="whole numbers"):
        InContextConfig(local="4,many")
    assert numbers(" 0, 200,") == [0, 200]


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_public_sets_give_the_same_label_words(name, monkeypatch):
    public = DATASETS[name].public
    rows = [{"text": f"text {i}", public.label_column: value} for i, value in enumerate(public.labels)]
    asked = []
    source = DataSource()
    monkeypatch.setattr(source, "public", lambda path, split: (asked.append((path, split)), rows)[1])
    drawn = load_set(name, source, None)
    assert [example.label for example in drawn.test] == list(DATASETS[name].labels)
    assert asked == [(public.path, "train"), (public.path, DATASETS[name].test_split)]


def test_a_missing_file_says_which(tmp_path):
    with pytest.raises(LtmError, match=r"icl/mr\.csv\.gz"):
        load_set("mr", DataSource(tmp_path), None)


def test_an_unknown_label_is_named(tmp_path):
    write_set(tmp_path, "mr", [("fine", "superb", "train"), ("dull", "negative", "test")])
    with pytest.raises(LtmError, match="superb"):
        load_set("mr", DataSource(tmp_path), None)


def test_it_is_registered():
    assert TASKS["in_context"] is InContext
