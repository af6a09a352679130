"""docs/answers.md is filled from result files: arms one below another, one kind alone, the command below."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from ltm.tasks.base import Row


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs" / "build"))
    return import_module("answers_page")


def test_tables_stand_between_their_marks(page, tmp_path, monkeypatch):
    where = {"text": "squad", "kind": "all", "arm": "both"}
    rows = [
        Row(where, "holds_answer", 0.35, 0.18, 0.57, 20),
        Row(where, "f1", 0.2, 0.1, 0.3, 20),
        Row({**where, "arm": "none"}, "holds_answer", 0.0, 0.0, 0.16, 20),
        Row({**where, "kind": "other", "arm": "gold"}, "holds_answer", 1.0, None, None, 3),
    ]
    result = SimpleNamespace(task="ask", failed=False, label="longmem", rows=rows)
    monkeypatch.setattr(page, "read_results", lambda _: [result])
    monkeypatch.setattr(page, "commands", lambda found: ["ltm bench run ask"])
    file = tmp_path / "answers.md"
    marks = ("<!-- measured: ask -->\nFormer.\n<!-- end -->", "<!-- measured: other of ask --><!-- end -->")
    file.write_text("\n".join(["Before.", *marks]))
    page.main(file, tmp_path)
    text = file.read_text()
    assert text.startswith("Before.") and "Former" not in text and "`ltm bench run ask`" in text
    assert "| squad: both (`longmem`) | 35% (18% to 57%) | 0.20 | 20 |" in text
    assert "| squad: none (`longmem`) | 0% (0% to 16%) | – | 20 |" in text
    assert "| squad: gold (`longmem`) | 100% | 3 |" in text.split("other of ask")[1]
