"""Every "next:" line that a command prints is a command that runs, whatever the names in it."""

from __future__ import annotations

import gzip
import json
import os
import shlex

import pytest

TINY = ("--backbone", "tiny-llama")
FOLDER = 'it\'s a "folder" of $mine'


def next_steps(told) -> list[list[str]]:
    """The arguments of the commands that were printed."""
    lines = [line for line in (told.err + told.out).splitlines() if line.startswith("next: ")]
    return [shlex.split(line.removeprefix("next: "))[1:] for line in lines]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder whose name needs quotes, and the place where commands run."""
    (tmp_path / FOLDER).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / FOLDER


def follow(run, told) -> None:
    """Run what comes next, and what comes next after that."""
    assert told.code == 0, told.err
    steps = next_steps(told)
    assert len(steps) == 1, told.err
    done = run(*steps[0], *(("--max-tokens", 2) if steps[0][0] == "ask" else ()))
    assert done.code == 0, (steps, done.err)
    if steps[0][0] == "read":
        follow(run, done)


@pytest.mark.parametrize("method", ["longmem", "em_llm", "quest", "ngram"])
def test_after_reading(run, book, sidenet, here, method):
    weights = ("--sidenet", sidenet) if method == "longmem" else ("--method", method)
    (here / "tale.txt").write_text("Call me Ishmael. " * 8)
    follow(run, run("read", here / "tale.txt", "-o", here / "a bank", *TINY, *weights))


def test_after_training(run, book, here):
    sizes = ("--reduction-factor", 2, "--segment-size", 32, "--max-steps", 1)
    follow(run, run("train", "--data", book, "--out", here / "side net", *TINY, *sizes))


def test_after_a_benchmark(run, here):
    (here / "data" / "books").mkdir(parents=True)
    line = json.dumps({"id": "Ada", "text": "Ada walks and walks. " * 8}).encode()
    (here / "data" / "books" / "test.jsonl.gz").write_bytes(gzip.compress(line))
    options = (
        "--set",
        "long_text.kinds=books",
        "--set",
        "long_text.max_tokens=64",
        "--window",
        32,
        "--methods",
        "window",
    )
    told = run("bench", "run", "--data", here / "data", "--out", here / "re sults", *TINY, *options)
    follow(run, told)
    assert "page.md" in os.listdir()
