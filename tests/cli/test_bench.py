"""ltm bench end to end on tiny data, and a user's mistakes as one line."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from conftest import one_line


@pytest.fixture
def data(tmp_path):
    """Two short books."""
    folder = tmp_path / "data" / "books"
    folder.mkdir(parents=True)
    lines = [json.dumps({"id": name, "text": f"{name} walks and walks. " * 8}) for name in ("Ada", "Bob")]
    (folder / "test.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder.parent


@pytest.fixture
def bench(run, data, tmp_path):
    """bench("--methods", "window") runs long_text into tmp_path / "out"."""
    common = ("--set", "long_text.kinds=books", "--set", "long_text.max_tokens=80", "--backbone", "tiny-llama")
    return lambda *more: run(
        "bench", "run", "--data", data, "--out", tmp_path / "out", "--window", 32, *common, *more, "--device", "cpu"
    )


def test_run_then_report(bench, run, sidenet, tmp_path):
    methods = ("--methods", f"window,longmem@{sidenet} as longmem", "--budget", "64")
    result = bench(*methods)
    assert result.code == 0, result.err
    assert "perplexity by kind" in result.out and "longmem" in result.out and "books" in result.out
    assert "long_text, window: 160 tokens in" in result.err and "ltm bench report" in result.err
    again = bench(*methods, "--json")
    assert again.code == 0 and again.err.count("done before") == 2
    assert [facts["setup"]["method"]["label"] for facts in again.json()] == ["window", "longmem"]
    assert again.json()[1]["budget"]["given"] == {"memory_size": 64}
    page = tmp_path / "page.md"
    report = run("bench", "report", tmp_path / "out", "--out", page)
    assert report.code == 0 and report.out.splitlines() == [str(page), str(page.with_suffix(".html"))]
    assert "| books |" in page.read_text() and "Difference from window" in page.read_text()


def test_an_experiment_says_it_all_and_options_win(run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = 'out = "own"\ndata = "data"\nmethods = ["window"]\nbackbone = "tiny-llama"\nwindow = 32\n'
    (tmp_path / "own.toml").write_text(text + '[set.long_text]\nkinds = ["books"]\nmax_tokens = 80\n')
    (facts,) = run("bench", "run", "own.toml", "--device", "cpu", "--json").json()
    assert (facts["setup"]["task"]["config"]["max_tokens"], facts["tokens"]) == (80, 160)
    assert (tmp_path / "own" / "long_text.window.json").exists()
    (full,) = run("bench", "run", "own.toml", "--methods", "full", "--out", "other", "--json").json()
    assert full["setup"]["method"]["name"] == "full" and (tmp_path / "other").is_dir()
    assert "path/to/experiment.toml" in one_line(run("bench", "run", "long_text"))
    assert "--out results/" in one_line(run("bench", "run", "--backbone", "tiny-llama"))


def test_one_that_fails_gives_exit_code_1(bench):
    result = bench("--methods", "longmem,window")
    assert result.code == 1
    assert "longmem: failed: no trained weights" in result.err and "window" in result.out


def test_another_configuration_is_refused(bench):
    assert bench("--methods", "window").code == 0
    line = one_line(bench("--methods", "window", "--set", "long_text.documents=1"))
    assert "task.config.documents: 4 there, 1 now" in line and "--restart" in line
    assert bench("--methods", "window", "--set", "long_text.documents=1", "--restart").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--methods", "windw"), "did you mean window"),
        (("--tasks", "long_txt"), "did you mean long_text"),
        (("--set", "long_text.pages=2"), "no option 'pages'"),
        (("--budget", "much"), "65536"),
        (("--data", "nowhere"), "no folder"),
    ],
)
def test_mistakes_are_one_line(bench, arguments, says):
    assert says in one_line(bench(*arguments))


def test_report_of_nothing_is_one_line(run, tmp_path):
    assert "holds no results" in one_line(run("bench", "report", tmp_path, "--out", tmp_path / "page.md"))


def test_list_names_tasks_with_their_options_and_experiments(run, tmp_path, monkeypatch):
    result = run("bench", "list", "--json")
    (task,) = [task for task in result.json() if task["name"] == "long_text"]
    assert task["options"]["documents"]["default"] == 4 and "Wang" in task["source"]
    assert all(option["help"] for task in result.json() for option in task["options"].values())
    assert "long_text.kinds" in run("bench", "list").out
    monkeypatch.chdir(tmp_path)
    assert "experiments:" not in run("bench", "list").out
    (tmp_path / "benchmarks" / "experiments").mkdir(parents=True)
    (tmp_path / "benchmarks" / "experiments" / "own.toml").write_text('about = "what it shows"')
    assert re.search(r"own +. what it shows", run("bench", "list").out)


@pytest.mark.parametrize("command", [["bench"], ["bench", "run"], ["bench", "report"], ["bench", "list"]], ids=" ".join)
def test_help_ends_in_a_line_to_paste(run, command):
    last = run(*command, "--help").out.strip().splitlines()[-1].strip()
    assert last.startswith(f"Try: ltm {' '.join(command)}")
