"""Pages: what stands in them follows from the result files; comparisons are worked by hand."""

from __future__ import annotations

import base64
import json
import math
import re

import pytest
from fake_task import add_fake

from ltm.bench import read_results, write_report
from ltm.bench.page import CellText, Heading, Paragraph, Table, to_html, to_markdown
from ltm.bench.pairing import measured, paired_difference
from ltm.bench.plots import styles
from ltm.bench.records_file import Entry, RecordsFile
from ltm.bench.results import records_path, rows_to_json, write_result
from ltm.bench.tables import Line, make_lines, number, sections
from ltm.errors import LtmError
from ltm.tasks.base import Row

PNG = b"\x89PNG"


def setup(task="fake", label="window", seed=None, config=None, options=None):
    return {
        "task": {"name": task, "config": config or {}},
        "units": {"count": 2, "tokens": 20, "hash": "abc"},
        "method": {
            "name": label,
            "label": label,
            "given": {"local_window": 64},
            "options": options or {},
            "weights": None,
        },
        "backbone": {"name": "tiny-llama", "dtype": "float32"},
        "device": "cpu",
        "seed": seed,
    }


def write(folder, label, rows, order, records=(), per_token=None, error=None, **fields):
    """A result file with its records, a unit each."""
    own = setup(label=label, **fields)
    seed = fields.get("seed")
    path = folder / f"{own['task']['name']}.{label}{'' if seed is None else seed}.json"
    facts = {
        "status": "failed" if error else "done",
        "error": error,
        "command": f"ltm bench run --methods {label}",
        "date": "2025-01-01T00:00:00+00:00",
        "order": [0, order],
        "setup": own,
        "budget": {"asked": None, "given": {}},
        "bytes_per_token": per_token,
        "machine": {"processor": "a cpu", "cores": 2, "threads": 1, "gpu": None},
        "versions": {"ltm": "0"},
        "commit": None,
        "seconds": 1.0,
        "tokens": 20,
        "tokens_per_second": 20.0,
        "process_peak_bytes": 10**9,
        "gpu_peak_bytes": None,
        "rows": rows_to_json(rows),
    }
    write_result(path, facts)
    records_file = RecordsFile(records_path(path), own)
    with records_file.writing():
        for index, record in enumerate(records):
            records_file.add(Entry(f"unit/{index}", 10, 10, 0.5, [record]))


def recall(shift: float) -> list[Row]:
    return [
        Row({"length": length, "depth": depth}, "recall", max(1 - shift * length / 4096 - depth / 5, 0.0), count=20)
        for length in (1024, 2048, 4096)
        for depth in (0.0, 0.5, 1.0)
    ]


def by_length(values) -> list[Row]:
    return [Row({"length": n}, "accuracy", v, v - 0.1, v + 0.1, 2) for n, v in zip((512, 1024), values, strict=True)]


def test_windows_that_keep_more_than_others_are_told(tmp_path, monkeypatch):
    add_fake(monkeypatch)
    kept = {"window": 1024, "sinks": 1020, "half": None}  # of 1,024: 0, 4 and 512 tokens stay
    for order, (label, stride) in enumerate(kept.items()):
        write(tmp_path, label, by_length((0.5, 0.6)), order, options={"local_window": 1024, "stride": stride})
    write(tmp_path, "full", by_length((0.5, 0.6)), 3, options={"memory_size": 5})
    text = write_report(tmp_path, tmp_path / "page.md")[0].read_text()
    assert "Not like with like" in text and "(tokens kept: window 0, sinks 4, half 512)" in text
    (tmp_path / "fake.half.json").unlink()
    assert "Not like with like" not in write_report(tmp_path, tmp_path / "page.md")[0].read_text()


def test_a_page_has_tables_plots_differences_and_origins(tmp_path, monkeypatch):
    add_fake(monkeypatch)
    for order, (label, values, right) in enumerate([("window", (0.5, 0.25), 0), ("longmem", (0.75, 0.25), 1)]):
        records = [{"length": n, "example": f"e{i}", "correct": right == 1 or i == 0} for i in (0, 1) for n in (512,)]
        write(tmp_path, label, [*by_length(values), *recall(0.5 - 0.3 * right)], order, records, per_token=10.0**order)
    write(tmp_path, "broken", [], 2, error="no weights | here")
    markdown, page = write_report(tmp_path, tmp_path / "out" / "page.md", "Title & more")
    text, markup = markdown.read_text(), page.read_text()
    assert text.startswith("<!-- ltm bench report -->\n\n# Title & more\n") and "<h1>Title &amp; more</h1>" in markup
    assert "| 512 | 0.500 [0.400, 0.600] | **0.750 [0.650, 0.850]** | 2 |" in text
    assert "| 1,024 | 0.250 [0.150, 0.350] | 0.250 [0.150, 0.350] | 2 |" in text, "equal values: none is bold"
    assert "### Difference from window" in text and "| 512 | accuracy | +0.500 [+0.000, +1.000], n=2 |" in text
    assert r"no weights \| here" in text and "ltm bench run --methods longmem" in text
    pictures = re.findall(r"!\[.*?\]\((\S+)\)", text)
    assert [name.rsplit("-", 1)[1] for name in pictures] == [
        "length.png",
        "depth.png",
        "bytes.png",
    ]
    assert all((markdown.parent / name).read_bytes().startswith(PNG) for name in pictures)
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', markup)
    assert len(embedded) == len(pictures) and all(base64.b64decode(one).startswith(PNG) for one in embedded)
    assert not re.search(r'(src|href)="(?!data:)', markup), "the page needs nothing else"


def test_what_was_measured_on_less_is_marked_and_never_best():
    lines = make_lines(
        {
            "window": [[Row({"kind": "books"}, "perplexity", 9.0, count=4, higher_is_better=False)]],
            "longmem": [[Row({"kind": "books"}, "perplexity", 8.0, count=4, higher_is_better=False)]],
            "full": [[Row({"kind": "books"}, "perplexity", 5.0, count=3, higher_is_better=False)]],
        }
    )
    assert lines[0].best() == {"longmem"} and set(lines[0].compared) == {"window", "longmem"}


def test_seeds_are_taken_together_with_students_interval(tmp_path, monkeypatch):
    add_fake(monkeypatch)
    for seed, value in enumerate((1.0, 2.0, 3.0)):
        rows = [Row({}, "score", value, count=5)]
        write(tmp_path, "window", rows, 0, seed=seed, config={"seed": seed})
    (section,) = sections(read_results(tmp_path))
    (line,) = section.lines()
    value = line.values["window"]
    assert (value.value, value.count, value.seeds) == (2.0, 15, 3)
    assert value.high == pytest.approx(2 + 4.3027 / math.sqrt(3))


def test_methods_of_long_text_are_compared_over_common_tokens(tmp_path):
    def record(document, tokens, nats):
        parts = [
            {"from": 0, "to": 1024, "tokens": tokens[0], "nats": nats[0]},
            {"from": 1024, "to": 2048, "tokens": tokens[1], "nats": nats[1]},
        ][: len([t for t in tokens if t])]
        shared = {"id": f"books/{document}", "kind": "books", "length": 2048, "positions": parts}
        return {**shared, "tokens": sum(tokens), "nats": sum(nats)}

    two = math.log(2)
    far = [record(name, (1, 1), (4 * two, 2 * two)) for name in "ab"]
    near = [record(name, (1, 0), (3 * two, 0)) for name in "ab"]
    config = {"kinds": "books", "split": "test", "documents": 2, "max_tokens": 2048}
    rows = [Row({"kind": "books"}, "perplexity", 8.0, count=2, higher_is_better=False, extra={"tokens": 4})]
    less = [Row({"kind": "books"}, "perplexity", 8.0, count=2, higher_is_better=False, extra={"tokens": 2})]
    write(tmp_path, "window", rows, 0, far, task="long_text", config=config)
    write(tmp_path, "full", less, 1, near, task="long_text", config=config)
    text = write_report(tmp_path, tmp_path / "page.md")[0].read_text()
    # common: the first token of each document, 2^4 for window and 2^3 for full
    assert "what every method measured" in text
    assert "| books | 16.00 [16.00, 16.00] | **8.000 [8.000, 8.000]** | 2 |" in text
    assert "| books | 8.000 | 8.000 † | 2 |" in text
    assert "| books | perplexity | **−8.000 [−8.000, −8.000], n=2** |" in text


def test_paired_difference_by_hand():
    line = Line((("length", 512),), "accuracy", True, {})
    base = {(None, f"u{i}", 0): {"length": 512, "example": i, "correct": False} for i in range(4)}
    other = {key: {**record, "correct": True} for key, record in base.items()}
    other[None, "alone", 0] = {"length": 512, "correct": False}
    difference = paired_difference(base, other, line)
    assert (difference.value, difference.low, difference.high, difference.count) == (1.0, 1.0, 1.0, 4)
    assert difference.is_clear
    assert paired_difference(base, other, Line((("length", 1024),), "accuracy", True, {})) is None
    mixed = {key: {**record, "correct": key[1] < "u2"} for key, record in base.items()}
    some = paired_difference(base, mixed, line)
    assert some.value == 0.5 and some.low == 0.0 and some.high == 1.0 and not some.is_clear


def test_measures_go_by_their_fields():
    record = {"nats": 2.0, "tokens": 4, "correct": True, "argmax_correct": False, "f1": 0.5, "gold": "x"}
    assert measured(record, "perplexity") == (2.0, 4.0)
    assert measured(record, "accuracy") == (1.0, 1.0)
    assert measured(record, "argmax_accuracy") == (0.0, 1.0)
    assert measured(record, "f1") == (0.5, 1.0)
    assert measured(record, "gold") is None and measured(record, "recall") is None


def test_pages_escape_what_means_something():
    blocks = [Heading("a|b"), Paragraph("<unk> * "), Table(["x", "y"], [[CellText("<a>"), CellText("1", True)]])]
    assert "a\\|b" in to_markdown(blocks) and "| \\<a> | **1** |" in to_markdown(blocks)
    assert "&lt;unk&gt;" in to_html("t", blocks) and '<td class="number"><b>1</b></td>' in to_html("t", blocks)


def test_numbers_keep_what_tells_something():
    assert [number(value) for value in (0.12345, 12.345, 123.45, 12345.6)] == ["0.123", "12.35", "123.5", "12346"]


def test_folders_without_results_are_told(tmp_path):
    for text, says in {
        '{"a": 1}': "no result of ltm bench",
        "{": "damaged",
        json.dumps({"format": 9, "setup": 1}): "9",
    }.items():
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(LtmError, match=says):
            read_results(tmp_path)
    (tmp_path / "x.json").unlink()
    with pytest.raises(LtmError, match="holds no results"):
        write_report(tmp_path, tmp_path / "page.md")
    with pytest.raises(LtmError, match="no folder"):
        read_results(tmp_path / "nowhere")


def test_a_report_replaces_reports_and_nothing_else(tmp_path, monkeypatch):
    add_fake(monkeypatch)
    write(tmp_path / "results", "window", by_length((0.5, 0.25)), 0)
    page = tmp_path / "page.md"
    mine = [page, tmp_path / "page.html", tmp_path / "page-1-fake-right-length.png"]
    pictures = {file.name for file in write_report(tmp_path / "results", tmp_path / "all.md")[0].parent.glob("*.png")}
    mine[2] = tmp_path / next(iter(pictures)).replace("all-", "page-")
    for file in mine:
        file.write_text("mine")
        with pytest.raises(LtmError, match="was left as it is"):
            write_report(tmp_path / "results", page)
        assert file.read_text() == "mine" and {other.name for other in tmp_path.glob("page*")} == {file.name}
        file.unlink()
    write_report(tmp_path / "results", page)
    first = page.read_bytes()
    page.write_text(page.read_text().replace("Benchmark results", "Old"))
    write_report(tmp_path / "results", page)  # it is a report: its page and its pictures may be replaced
    assert page.read_bytes() == first
    for nothing in ("", ".", " "):
        with pytest.raises(LtmError, match="names no file"):
            write_report(tmp_path / "results", nothing)


def test_no_two_methods_look_alike_without_a_line():
    """Where cost is drawn there are markers alone."""
    looks = styles([f"method {number}" for number in range(40)])
    assert len({(look.colour, look.marker) for look in looks.values()}) == 40
