"""What a run is told in short: read as meant, or refused in a line that says what would do."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_task import add_fake

from ltm.bench import Budget, parse_budget, parse_methods, parse_tasks
from ltm.bench.specs import parse_method
from ltm.bench.values import parse_value
from ltm.errors import LtmError
from ltm.methods.attention.longmem import LongMemConfig
from ltm.methods.baselines.full import FullConfig


def test_methods_with_options_paths_and_labels():
    window, off, saved = parse_methods(
        "window, longmem:use_memory=false,stride=none as no memory, longmem@side/nets:memory_size=64"
    )
    assert (window.name, window.label, window.options, window.sidenet) == ("window", "window", {}, None)
    assert (off.name, off.label, off.options) == ("longmem", "no memory", {"use_memory": False, "stride": None})
    assert (saved.sidenet, saved.options) == (Path("side/nets"), {"memory_size": 64})
    assert saved.label == "longmem@nets:memory_size=64"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no method given"),
        ("windw", "did you mean window"),
        ("window:", "write NAME, NAME@PATH"),
        ("window:64", "write NAME, NAME@PATH"),
        ("window:local_windw=64", "did you mean local_window"),
        ("window:local_window=many", "use a whole number"),
        ("longmem:use_memory=maybe,fusion=glue", "use true or false.*use one of gate, softmax"),
        ("window,window", "two methods are called 'window'"),
        ("full,stride=2", "unknown method|write NAME"),
    ],
)
def test_methods_that_cannot_be_read(text, says):
    with pytest.raises(LtmError, match=says):
        parse_methods(text)


def test_a_further_option_belongs_to_the_method_before():
    assert parse_method("sinks:num_sinks=2,stride=4").options == {"num_sinks": 2, "stride": 4}


def test_tasks_with_settings(monkeypatch):
    add_fake(monkeypatch)
    (spec,) = parse_tasks("fake", ["fake.units=2", "fake.note=a=b"])
    assert spec.options == {"units": 2, "note": "a=b"} and spec.config(seed=3).seed == 3
    for setting, says in {
        "fake.unit=2": "did you mean units",
        "fake.units=two": "whole number",
        "units=2": "task.key=value",
        "fake.units": "task.key=value",
        "long_text.documents=2": "which is not run",
    }.items():
        with pytest.raises(LtmError, match=says):
            parse_tasks("fake", [setting])
    with pytest.raises(LtmError, match="did you mean fake"):
        parse_tasks("fke")
    with pytest.raises(LtmError, match="documents=0"):
        parse_tasks("long_text", ["long_text.documents=0"])


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("65536", Budget(tokens=65536)),
        ("64MB", Budget(num_bytes=64_000_000)),
        ("1 GiB", Budget(num_bytes=2**30)),
        ("100b", Budget(num_bytes=100)),
    ],
)
def test_budgets(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "0", "-5", "64k", "lots", "1.5GB"])
def test_budgets_that_cannot_be_read(text):
    with pytest.raises(LtmError, match="tokens such as"):
        parse_budget(text)


def test_a_budget_reaches_those_that_have_one():
    assert Budget(tokens=64).options(LongMemConfig) == {"memory_size": 64}
    assert Budget(tokens=64).options(FullConfig) == {}


def test_values_take_their_type_from_the_hint():
    assert parse_value("none", int | None) is None
    assert parse_value("3", int | None) == 3
    assert parse_value("0.5", float) == 0.5
    assert parse_value("3", str) == "3"
    assert parse_value("Off", bool) is False
