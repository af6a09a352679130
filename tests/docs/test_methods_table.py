"""docs/methods.md from the registry and result files: figures by hand, and blanks that say so."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from ltm.methods import METHODS

BUILD = Path(__file__).parents[2] / "docs" / "build"


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(BUILD)
    return import_module("methods_table")


def cells(page, name):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def write(folder, task, label, method, rows, per_token=None, within="bench", **config):
    facts = {
        "format": 1,
        "status": "done",
        "command": f"ltm bench run --tasks {task} --methods {label}",
        "date": label,
        "order": [0, 0],
        "setup": {
            "task": {"name": task, "config": {"max_tokens": 512, **config}},
            "method": {"name": method, "label": label},
        },
        "bytes_per_token": per_token,
        "rows": rows,
    }
    (folder / within).mkdir(exist_ok=True)
    (folder / within / f"{task}.{label}.json").write_text(json.dumps(facts))


def row(condition, metric, value, count):
    return {"condition": condition, "metric": metric, "value": value, "low": None, "high": None, "count": count}


def test_without_results_every_method_has_a_row_of_blanks(table, tmp_path):
    page = table.page(tmp_path)
    for name in METHODS:
        assert cells(page, name)[3:] == [
            "not measured",
            "1 x" if name == "full" else "not measured",
            *["not measured"] * 2,
        ]
    assert cells(page, "quest")[1:3] == ["Tang et al., 2024, arXiv:2406.10774", "no"]


def test_it_says_of_every_method_with_a_bank_what_a_deleted_document_leaves_behind(table, tmp_path):
    (section,) = [part for part in table.page(tmp_path).split("\n## ") if part.startswith("What a deleted document")]
    for name, method in METHODS.items():
        assert (f"`{name}`" in section) == method.keeps_bank
        assert method.card.deletion in section


def test_figures_come_from_the_files(table, tmp_path):
    kinds = [row({"kind": kind}, "perplexity", value, 1) for kind, value in (("books", 20.004), ("techdocs", 5.5))]
    write(tmp_path, "long_text", "a", "quest", [row({"kind": "books"}, "perplexity", 99.0, 1)], 7.0)
    write(
        tmp_path,
        "long_text",
        "quest",
        "quest",
        [*kinds, row({"kind": "books", "position": 9}, "perplexity", 1.0, 1)],
        1234.5,
    )
    recall = [
        row({"variant": variant, "length": length}, metric, value, count)
        for variant, length, metric, value, count in (
            ("sentences", 4096, "accuracy", 0.6, 5),
            ("sentences", 4096, "choice_accuracy", 1.0, 5),
            ("sentences", 16384, "accuracy", 0.2, 5),
            ("sentences", 16384, "choice_accuracy", 0.4, 5),
            ("uuid", 4096, "accuracy", 0.0, 9),
        )
    ]
    write(tmp_path, "recall", "quest", "quest", recall)
    cost = {"method": "quest", "label": "quest", "tokens": 8192, "seconds": 0.1, "full_seconds": 0.4}
    speed = {
        "command": "python benchmarks/measurements/quest_speed.py",
        "decode_cost": [{**cost, "label": "other"}, cost],
    }
    (tmp_path / "speed.json").write_text(json.dumps(speed))
    page = table.page(tmp_path)
    found = cells(page, "quest")[3:]
    shares = "4,096: 60% / 100%; 16,384: 20% / 40%"
    assert found == ["1,234", "8,192: 0.25 x; other, 8,192: 0.25 x", shares, "20.00 / 5.50 / – / – / –"]
    assert "scored to 512 tokens" in page and page.count("`python benchmarks/measurements/quest_speed.py`") == 1
    assert "`ltm bench run --tasks recall --methods quest`" in page


def test_the_map_of_recall_has_the_most_readings_there_are(table, tmp_path):
    maps = import_module("recall_maps")
    assert maps.recall_heat(tmp_path) is None and "pictures/recall" not in table.page(tmp_path)
    for folder, length, value in (("recall-sentences", "4096,16384", 0.0), ("recall-trials", "4096", 2 / 3)):
        depths = [{"variant": "sentences", "length": int(n), "depth": 50} for n in length.split(",")]
        rows = [row(condition, metric, value, 1) for condition in depths for metric in ("accuracy", "nats")]
        for condition in ({"variant": "sentences", "length": int(n)} for n in length.split(",")):
            rows += [row(condition, metric, value, 15) for metric in ("accuracy", "choice_accuracy")]
        write(tmp_path, "recall", "quest", "quest", rows, within=folder, variants="sentences", lengths=length)
    chosen = table.heat_results(tmp_path)["quest"]
    assert [chosen[length].rows[0].value for length in (4096, 16384)] == [2 / 3, 0.0]
    assert "| `quest` | 10, 10 of 15 | 0, 0 of 15 |" in table.recall_table(tmp_path)
    assert maps.recall_heat(tmp_path).startswith(b"\x89PNG") and "](pictures/recall.png)" in table.page(tmp_path)
