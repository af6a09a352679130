"""Tables of docs/results.md from records: what stands beside LongMem, on the same documents, and blanks that say so."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

BUILD = Path(__file__).parents[2] / "docs" / "build"
PERPLEXITY = {"window": 16, "no memory": 12, "memory off": 12, "attention only": 11, "n-gram cache": 9, "longmem": 8}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(BUILD)
    return import_module("results_page")


def result(label, perplexity, documents=("one",), tokens=100):
    nats = tokens * math.log(perplexity)
    scored = {"kind": "books", "tokens": tokens, "nats": nats}
    place = {"from": 0, "to": 1024, "tokens": tokens, "nats": nats}
    found = [{"id": f"books/{name}", "positions": [place], **scored} for name in documents]
    facts = {"command": f"ltm bench run --methods {label}"}
    path = Path(f"{label}.json")
    return SimpleNamespace(task="long_text", label=label, failed=False, records=found, facts=facts, path=path)


def cells(table, name):
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_half_window_has_the_rows_beside_longmem_and_what_they_have_of_memorys_gain(page):
    apart = [result(label, value) for label, value in PERPLEXITY.items()]
    table = page.half_window([result("full", 10)], apart)
    own = dict(zip(cells(table, "kind"), cells(table, "books"), strict=True))
    assert [own[label] for label in page.BESIDE] == ["12.00", "11.00", "9.00"]
    assert own["against n-gram cache"] == "-11.1%" and own[page.SHARES] == "21%, 71%"
    assert table.count("`ltm bench run --methods ") == len(PERPLEXITY)


def test_what_was_not_measured_on_all_documents_is_left_blank(page):
    both = ("one", "two")
    apart = [result(label, PERPLEXITY[label], both) for label in ("window", "no memory", "longmem", "memory off")]
    apart.append(result("n-gram cache", 9, ("one",)))
    table = page.half_window([result("full", 10, both)], apart)
    own = dict(zip(cells(table, "kind"), cells(table, "books"), strict=True))
    assert [own[label] for label in page.BESIDE] == ["12.00", "–", "–"]
    assert own["against n-gram cache"] == own[page.SHARES] == "–"


def test_documents_that_only_some_scored_are_in_no_table_by_place(page):
    apart = [result("window", 16), result("longmem", 8), result("n-gram cache", 9, ("one", "two"))]
    table = page.beyond(apart)
    own = dict(zip(cells(table, "place in the book"), cells(table, "0–1,024"), strict=True))
    assert (own["longmem"], own["n-gram cache"], own["attention only"]) == ("8.00", "9.00", "–")


def test_other_tokens_of_the_same_document_are_no_comparison(page):
    apart = [result("window", 16), result("no memory", 12), result("longmem", 8, tokens=99)]
    with pytest.raises(AssertionError, match="other tokens"):
        page.half_window([result("full", 10)], apart)
