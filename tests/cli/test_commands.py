"""Each command does its work end to end, prints data to stdout and everything else to stderr."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import ltm
from ltm.console import format_bytes, format_seconds

COMMANDS = [
    [],
    ["read"],
    ["ask"],
    ["chat"],
    ["train"],
    ["eval"],
    ["eval", "perplexity"],
    ["bank"],
    ["bank", "info"],
    ["bank", "list"],
    ["bank", "delete"],
    ["bank", "verify"],
    ["bank", "compact"],
    ["bank", "merge"],
    ["bank", "export"],
    ["bank", "import"],
    ["bank", "rebuild"],
    ["methods"],
    ["demo"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_ends_in_a_line_to_paste(run, command):
    result = run(*command, "--help")
    assert result.code == 0 and result.err == ""
    last = result.out.strip().splitlines()[-1].strip()
    assert last.startswith(f"Try: ltm {' '.join(command)}".strip()), last


def test_help_and_version_import_no_torch():
    code = "import sys; from ltm.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    for arguments in (["--help"], ["read", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


def test_version(run):
    assert run("--version").out == f"ltm {ltm.__version__}\n"


def test_a_command_alone_shows_its_help(run):
    for command in ([], ["bank"], ["eval"]):
        result = run(*command)
        assert "Usage: ltm" in result.out + result.err


def test_read_tells_what_it_did(run, book, sidenet, tmp_path):
    arguments = ("-o", tmp_path / "a.bank", "--backbone", "tiny-llama", "--sidenet", sidenet)
    size = book.stat().st_size
    told = run("read", book, *arguments)
    assert told.code == 0 and told.out == ""
    assert f"read 1 document, {size} tokens" in told.err and "tokens/s" in told.err and "kB" in told.err
    again = run("read", book, *arguments, "--json")
    assert again.json()["documents"] == [{"name": "moby.txt", "tokens": size, "new": False}]
    assert again.json()["bank_tokens"] == size and "already" in again.err


def test_read_adds_to_a_memory_and_takes_folders(run, bank, sidenet, tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "one.md").write_text("# One\n\nThe first of two.")
    (folder / "two.jsonl").write_text('{"id": "a", "text": "Text of a."}\n{"id": "b", "text": "Text of b."}\n')
    before = run("bank", "list", bank, "--json").json()
    added = run("read", folder, "-o", bank, "--sidenet", sidenet, "--json").json()
    assert [document["name"] for document in added["documents"]] == ["one.md", "a", "b"]
    names = [document["name"] for document in run("bank", "list", bank, "--json").json()]
    assert names == [*(document["name"] for document in before), "one.md", "a", "b"]


def test_a_text_shorter_than_a_chunk_is_read_and_said_so(run, sidenet, tmp_path):
    (tmp_path / "hi.txt").write_text("Hi")
    result = run(
        "read",
        tmp_path / "hi.txt",
        "-o",
        tmp_path / "a.bank",
        "--backbone",
        "tiny-llama",
        "--sidenet",
        sidenet,
    )
    assert result.code == 0 and "shorter than a chunk of 4 tokens" in result.err


def test_what_does_not_fit_the_memory_is_said(run, book, sidenet, tmp_path):
    arguments = ("-o", tmp_path / "a.bank", "--backbone", "tiny-llama", "--sidenet", sidenet, "--memory-size", 100)
    result = run("read", book, *arguments, "--json")
    found, size = result.json(), book.stat().st_size
    assert found["tokens"] == size and 96 <= found["bank_tokens"] <= 100  # whole chunks leave
    assert found["dropped_tokens"] == size - found["bank_tokens"]
    assert f"oldest {found['dropped_tokens']} were dropped" in result.err and "--memory-size" in result.err


def test_ask_streams_to_stdout_and_shows_passages(run, bank, sidenet):
    asked = ("ask", bank, "Who?", "--recall", "memory", "--sidenet", sidenet, "--max-tokens", 8, "--trace")
    made = run(*asked)
    assert made.code == 0 and "weight" in made.err and "by attention: moby.txt [" in made.err
    found = run(*asked, "--json").json()
    assert made.out == found["text"] + "\n" and len(found["token_ids"]) <= 8
    assert found["passages"] and found["passages"][0]["document"] == "moby.txt"
    assert run("ask", bank, "Who?", "--sidenet", sidenet, "--max-tokens", 2, "--json").json()["passages"] == []
    on = run("ask", bank, "Call me", "--continue", "--sidenet", sidenet, "--max-tokens", 3, "--json").json()
    assert on["prompt_tokens"] == len("Call me")


def test_ask_writes_the_page_of_an_answer(run, bank, sidenet, tmp_path):
    page = tmp_path / "out.html"
    options = ("--sidenet", sidenet, "--max-tokens", 3)
    made = run("ask", bank, "Who?", "--trace", page, *options)
    assert made.code == 0 and f"wrote {page}" in made.err.replace("\n", "")
    content = page.read_text()
    assert "<h1>Who?</h1>" in content and "moby.txt" in content
    page.unlink()
    assert run("ask", bank, "--trace", page, "Who?", *options).code == 0 and page.read_text() == content
    assert run("ask", bank, "Who?", page, *options).code == 2
    refused = run("ask", bank, "Who?", "--trace", tmp_path / "no" / "out.html", *options)
    assert refused.code == 2 and "cannot write" in refused.err


def test_chat_answers_each_line(run, bank, sidenet, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("Who?\nWhere?\n\n"))
    result = run("chat", bank, "--sidenet", sidenet, "--max-tokens", 3)
    assert result.code == 0 and result.err.count("tokens/s") == 2


def test_bank_commands(run, bank, book):
    size = book.stat().st_size
    info = run("bank", "info", bank, "--json").json()
    assert info["backbone"] == "tiny-llama" and info["tokens"] == size and info["chunk_size"] == 4
    assert "tiny-llama" in run("bank", "info", bank).out
    (document,) = run("bank", "list", bank, "--json").json()
    assert (document["name"], document["num_tokens"], document["complete"]) == ("moby.txt", size, True)
    assert "moby.txt" in run("bank", "list", bank).out
    assert run("bank", "verify", bank).code == 0
    assert run("bank", "delete", bank, "moby.txt", "--json").json()["name"] == "moby.txt"
    assert run("bank", "list", bank, "--json").json() == []
    assert not any(b"Ishmael" in file.read_bytes() for file in bank.rglob("*") if file.is_file())


def test_eval_compares_like_with_like(run, book, sidenet, tmp_path):
    (tmp_path / "long.txt").write_text(book.read_text() * 3)  # longer than tiny-llama's 512 positions
    common = ("--backbone", "tiny-llama", "--sidenet", sidenet, "--window", 32)
    found = run("eval", "perplexity", "--data", tmp_path / "long.txt", book, *common, "--json").json()["methods"]
    total = 4 * book.stat().st_size - 2
    assert {name: figures["tokens"] for name, figures in found.items()} == {
        "window": total,
        "longmem": total,
        "full": 511 + book.stat().st_size - 1,
    }
    assert len({figures["common"]["tokens"] for figures in found.values()}) == 1
    assert len({round(figures["common"]["perplexity"], 3) for figures in found.values()}) == 3
    untrained = ("--backbone", "tiny-llama", "--window", 32, "--method", "window,sinks")
    table = run("eval", "perplexity", "--data", book, *untrained, "--by-position")
    assert table.code == 0 and re.search(r"window.*sinks", table.out, re.S) and "0-1,023" in table.out


def test_train_then_use(run, book, tmp_path):
    out, sizes = tmp_path / "sidenet", ("--reduction-factor", 2, "--segment-size", 32)
    trained = run("train", "--backbone", "tiny-llama", "--data", book, "--out", out, *sizes, "--max-steps", 2, "--json")
    assert trained.code == 0, trained.err
    assert trained.json()["step"] == 2 and trained.json()["stopped"] is None
    config = json.loads((out / "ltm_method.json").read_text())
    assert config["method_config"]["segment_size"] == 32 and config["method_config"]["reduction_factor"] == 2
    made = run("read", book, "-o", tmp_path / "a.bank", "--backbone", "tiny-llama", "--sidenet", out)
    assert made.code == 0, made.err


def test_methods_lists_the_registry(run):
    from ltm.methods import METHODS

    listed = {method["name"]: method for method in run("methods", "--json").json()}
    assert set(listed) == set(METHODS)
    assert listed["longmem"]["options"]["chunk_size"] == {
        "default": 2,
        "help": "Consecutive tokens that share one search key, their mean (paper: 4; 2 for in-context learning).",
    }
    table = run("methods").out
    assert all(name in table for name in METHODS)


def test_sizes_and_times_read_well():
    assert [format_bytes(count) for count in (999, 1000, 1_500_000, 2.5e9)] == [
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "2.5 GB",
    ]
    assert [format_seconds(seconds) for seconds in (7.4, 59.6, 3661)] == ["0:07", "1:00", "1:01:01"]
