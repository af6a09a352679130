"""Runs: resumed after a stop with the same result, refused over other configurations, unharmed by one that fails."""

from __future__ import annotations

import json

import pytest
from fake_task import add_fake

from ltm.bench import Budget, DifferentSetupError, Plan, Watch, parse_methods, parse_tasks, read_results, run_plan
from ltm.errors import LtmError
from ltm.methods import create_method
from ltm.tasks.data import DataSource

WINDOW = 64


@pytest.fixture
def plan(tiny_backbone):
    """plan(methods="window,full", settings=[...], ...) -> Plan for the fake task."""

    def make(methods="window,full", settings=(), **fields):
        backbone = tiny_backbone("tiny-llama")
        specs = parse_tasks("fake", settings), parse_methods(methods)
        return Plan(*specs, backbone, DataSource(None), window=WINDOW, **fields)

    return make


def rows(results):
    return [(result.label, result.seed, result.facts["rows"]) for result in results]


def test_results_explain_themselves(plan, tmp_path, monkeypatch):
    log = add_fake(monkeypatch)
    results = run_plan(plan(), tmp_path)
    assert log.ran == [(name, f"unit/{place}") for name in ("window", "full") for place in range(4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"fake.{name}.seed-0.{end}" for name in ("full", "window") for end in ("json", "records.jsonl")
    ]
    window, full = results
    facts = json.loads(window.path.read_text())
    assert facts["setup"]["method"]["options"] == {"local_window": WINDOW, "stride": None}
    assert facts["setup"]["method"]["given"] == {"local_window": WINDOW}
    assert facts["setup"]["backbone"]["name"] == "tiny-llama" and facts["setup"]["backbone"]["dtype"] == "float32"
    assert facts["setup"]["task"] == {"name": "fake", "config": {"units": 4, "note": None, "seed": 0}}
    assert (facts["status"], facts["tokens"], facts["setup"]["units"]["count"]) == ("done", 40, 4)
    assert {"torch", "transformers", "ltm"} <= facts["versions"].keys() and facts["machine"]["cores"]
    assert facts["process_peak_bytes"] > 1e6 and facts["seconds"] >= 0
    # 6 layers of keys and values of every kv head in float32; the window keeps nothing more
    view = plan().backbone.view
    assert full.facts["bytes_per_token"] == 6 * 2 * view.num_kv_heads * view.head_dim * 4
    assert facts["bytes_per_token"] is None
    assert [row.condition for row in window.rows] == [{"length": 512}, {"length": 1024}]
    assert len(window.records) == 8


@pytest.mark.parametrize("torn", [b"", b'{"unit": "unit/2", "cost": 1'])
def test_a_stopped_run_goes_on_and_ends_with_the_same_rows(plan, tmp_path, monkeypatch, torn):
    add_fake(monkeypatch)
    whole = rows(run_plan(plan(), tmp_path / "whole"))

    def stop(method, unit):
        if (method, unit) == ("full", "unit/2"):
            raise KeyboardInterrupt

    add_fake(monkeypatch, before=stop)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan(), tmp_path / "cut")
    with open(tmp_path / "cut" / "fake.full.seed-0.records.jsonl", "ab") as records:
        records.write(torn)
    log = add_fake(monkeypatch)
    assert rows(run_plan(plan(), tmp_path / "cut")) == whole
    assert log.ran == [("full", "unit/2"), ("full", "unit/3")]


def test_what_is_done_is_left_alone(plan, tmp_path, monkeypatch):
    log = add_fake(monkeypatch)
    (first,) = run_plan(plan("window"), tmp_path)
    before = first.path.read_bytes()
    run_plan(plan("window"), tmp_path)
    assert len(log.ran) == 4 and first.path.read_bytes() == before
    run_plan(plan("window"), tmp_path, restart=True)
    assert len(log.ran) == 8


def test_another_configuration_is_refused_before_anything_runs(plan, tmp_path, monkeypatch):
    log = add_fake(monkeypatch)
    run_plan(plan("window"), tmp_path)
    with pytest.raises(DifferentSetupError, match=r"task\.config\.note: None there, x now"):
        run_plan(plan("full,window", ["fake.note=x"]), tmp_path)
    assert len(log.ran) == 4
    (result,) = run_plan(plan("window", ["fake.note=x"]), tmp_path, restart=True)
    assert result.facts["setup"]["task"]["config"]["note"] == "x"


def test_one_that_fails_does_not_stop_the_others(plan, tmp_path, monkeypatch):
    def fail(method, unit):
        if method == "full" and unit == "unit/1":
            raise LtmError("it does not fit")

    add_fake(monkeypatch, before=fail)
    full, window = run_plan(plan("full,window"), tmp_path)
    assert (full.facts["status"], full.facts["error"], full.rows) == ("failed", "it does not fit", [])
    assert not window.failed
    log = add_fake(monkeypatch)
    again, _ = run_plan(plan("full,window"), tmp_path)
    assert not again.failed and [unit for _, unit in log.ran] == ["unit/1", "unit/2", "unit/3"]


def test_a_method_that_cannot_be_opened_and_a_task_without_units(plan, tmp_path, monkeypatch):
    add_fake(monkeypatch)
    longmem, window = run_plan(plan("longmem,window"), tmp_path)
    assert "no trained weights" in longmem.facts["error"] and not window.failed
    (empty,) = run_plan(plan("window", ["fake.units=0"]), tmp_path / "empty")
    assert "found nothing to measure" in empty.facts["error"]
    assert [result.failed for result in read_results(tmp_path)] == [True, False]


def test_a_method_that_speaks_text_is_not_measured_on_tokens(plan, tmp_path, monkeypatch):
    add_fake(monkeypatch)
    rag, window = run_plan(plan("rag,window"), tmp_path)
    assert rag.facts["error"] == "not measured: task fake speaks tokens, method rag speaks text"
    assert rag.failed and not window.failed


def test_budgets_reach_methods_and_are_told(plan, tiny_backbone, tmp_path, monkeypatch):
    add_fake(monkeypatch)
    trained = create_method("longmem", tiny_backbone("tiny-llama"), reduction_factor=2)
    trained.save_pretrained(tmp_path / "side")
    spec = f"longmem@{tmp_path / 'side'},longmem@{tmp_path / 'side'}:memory_size=48 as own,window"
    longmem, own, window = run_plan(plan(spec, budget=Budget(tokens=32)), tmp_path / "out")
    assert longmem.label == "longmem@side" and "memory_size-32" in longmem.path.name
    assert longmem.facts["budget"] == {"asked": "32 tokens", "given": {"memory_size": 32}}
    assert longmem.facts["setup"]["method"]["options"]["memory_size"] == 32
    assert own.facts["budget"]["given"] == {"memory_size": 48}, "an option of the method's own wins"
    assert window.facts["budget"] == {"asked": "32 tokens", "given": {}}
    assert longmem.facts["setup"]["method"]["weights"] and longmem.facts["bytes_per_token"] > 0
    assert str(tmp_path) not in longmem.path.read_text()


def test_seeds_are_cells_of_their_own(plan, tmp_path, monkeypatch):
    add_fake(monkeypatch)
    results = run_plan(plan("window", seeds=(0, 1)), tmp_path)
    assert [(result.seed, result.facts["setup"]["task"]["config"]["seed"]) for result in results] == [(0, 0), (1, 1)]
    (told,) = run_plan(plan("window", ["fake.seed=7"], seeds=(0, 1)), tmp_path / "told")
    assert told.seed is None and told.facts["setup"]["task"]["config"]["seed"] == 7


def test_stride_is_the_tasks_the_methods_or_asked_for(plan, monkeypatch):
    add_fake(monkeypatch)
    assert plan("window").cells()[0].options == {"local_window": WINDOW}
    assert plan("window", stride=8).cells()[0].options == {"local_window": WINDOW, "stride": 8}
    assert plan("window:stride=2").cells()[0].options == {"local_window": WINDOW, "stride": 2}
    long_text = Plan(parse_tasks("long_text"), parse_methods("window"), plan().backbone, DataSource(None), WINDOW)
    assert long_text.cells()[0].options == {"local_window": WINDOW, "stride": WINDOW}


def test_watch_sees_every_step(plan, tmp_path, monkeypatch):
    class Steps(Watch):
        seen: list[str] = []

        def begin(self, work):
            self.seen.append(f"begin {len(work)}")

        def start(self, cell):
            self.seen.append(f"start {len(cell.missing)}")

        def unit(self, cell, entry):
            self.seen.append(entry.unit)

        def end(self, cell, result):
            self.seen.append(result.label)

    add_fake(monkeypatch)
    run_plan(plan("window", ["fake.units=1"]), tmp_path, watch=Steps())
    assert Steps.seen == ["begin 1", "start 1", "unit/0", "window"]
