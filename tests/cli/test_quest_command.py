"""Quest from the command line: a memory of all layers on disk, a text read at once, passages, and what is too long."""

from __future__ import annotations

import pytest

QUEST = ("--method", "quest", "--backbone", "tiny-llama", "--max-tokens", 4)


@pytest.fixture
def tale(tmp_path):
    """A text that leaves room for questions in the tiny model's 512 positions."""
    path = tmp_path / "tale.txt"
    path.write_text("Call me Ishmael. Some years ago I went to sea. The whale is white.\n" * 4)
    return path


def test_read_ask_and_delete(run, tale, tmp_path):
    bank = tmp_path / "tale.bank"
    told = run("read", tale, "-o", bank, *QUEST[:4])
    assert told.code == 0 and f"read 1 document, {tale.stat().st_size} tokens" in told.err
    for command in ("info", "list", "verify"):
        assert run("bank", command, bank).code == 0
    kept = run("ask", bank, "Who is white?", *QUEST, "--json").json()
    at_once = run("ask", tale, "Who is white?", *QUEST, "--json").json()
    assert len(kept["token_ids"]) == 4 and kept["token_ids"] == at_once["token_ids"]
    traced = run("ask", bank, "Who is white?", *QUEST, "--trace", "--json").json()
    assert traced["token_ids"] == kept["token_ids"]
    assert traced["passages"][0]["document"] == "tale.txt" and traced["passages"][0]["text"] in tale.read_text()
    assert run("bank", "delete", bank, "tale.txt").code == 0
    assert run("ask", bank, "Who is white?", *QUEST, "--trace", "--json").json()["passages"] == []


def test_a_text_that_is_too_long_is_refused_before_it_is_read(run, tmp_path):
    book = tmp_path / "long.txt"
    book.write_text("Call me Ishmael. " * 40)
    done = run("ask", book, "Who?", *QUEST)
    assert done.code == 2 and done.out == ""
    assert "long.txt has 680 tokens, but quest on tiny-llama ends at 512" in done.err.splitlines()[-1]
    bank = tmp_path / "long.bank"
    done = run("read", book, "-o", bank, *QUEST[:4])
    assert done.code == 2 and "ends at 512" in done.err.splitlines()[-1]


def test_a_question_that_no_longer_fits_says_what_ends(run, tmp_path):
    book = tmp_path / "full.txt"
    book.write_text("Call me Ishmael. " * 30)
    done = run("ask", book, "Who?" * 10, *QUEST)
    assert done.code == 2 and "backbone's 512 positions" in done.err.splitlines()[-1]
