"""A user's mistake is one line on stderr and exit code 2; nothing is half-written."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from conftest import one_line

from ltm.bank import Bank
from ltm.cli import main

TINY = ("--backbone", "tiny-llama")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "empty"),
        ("blank.txt", b" \n\n", "white space"),
        ("junk.txt", bytes(range(256)), "NUL"),
        ("latin.txt", "Größe".encode("latin-1"), "UTF-8"),
        ("picture.png", b"\x89PNG", "kind of file"),
        ("broken.jsonl", b'{"text": "fine"}\n{"text": \n', "broken.jsonl:2"),
        ("fieldless.jsonl", b'{"body": "x"}\n', "'text'"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "fine"}\n' * 99, mtime=0)[:-9], "gzip"),
        (None, b"", "does not exist"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
@pytest.mark.parametrize("command", ["read", "eval", "train"])
def test_bad_data(run, sidenet, book, tmp_path, command, name, content, says):
    path = tmp_path / (name or "nowhere.txt")
    if name:
        path.write_bytes(content)
    arguments = {
        "read": ("read", book, path, "-o", tmp_path / "out", *TINY, "--sidenet", sidenet),
        "eval": ("eval", "perplexity", "--data", book, "--data", path, *TINY, "--sidenet", sidenet),
        "train": (
            "train",
            "--data",
            book,
            path,
            "--out",
            tmp_path / "out",
            *TINY,
            "--max-steps",
            1,
            "--reduction-factor",
            2,
        ),
    }
    line = one_line(run(*arguments[command]))
    assert says in line and path.name in line
    assert not (tmp_path / "out").exists()


def test_unknown_names(run, book, sidenet, bank, tmp_path):
    out = ("-o", tmp_path / "new.bank")
    assert "tiny-llama" in one_line(run("read", book, *out, "--backbone", "tiny-lama"))
    assert "longmem" in one_line(run("read", book, *out, *TINY, "--method", "longmen"))
    assert "longmem" in one_line(run("eval", "perplexity", "--data", book, *TINY, "--method", "window,longmen"))
    assert "moby.txt" in one_line(run("bank", "delete", bank, "dracula.txt"))
    assert "nowhere" in one_line(run("read", book, *out, *TINY, "--sidenet", tmp_path / "nowhere"))
    assert "ltm read" in one_line(run("ask", tmp_path / "no.bank", "Who?"))
    for command in ("info", "list", "verify"):
        assert "no.bank" in one_line(run("bank", command, tmp_path / "no.bank"))
    assert "frob" in one_line(run("frob"))
    assert "ltm read --help" in one_line(run("read", book, *out, "--frob"))
    assert not (tmp_path / "new.bank").exists() and not (tmp_path / "no.bank").exists()


def test_a_method_without_a_bank_does_not_read(run, book, tmp_path):
    assert "keeps no bank" in one_line(run("read", book, "-o", tmp_path / "a.bank", *TINY, "--method", "window"))
    assert not (tmp_path / "a.bank").exists()


def test_a_backbone_without_shipped_weights(run, book, tmp_path):
    line = one_line(run("read", book, "-o", tmp_path / "a.bank", *TINY))
    assert "ltm train" in line and "--sidenet" in line
    assert not (tmp_path / "a.bank").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--reduction-factor", 4), "reduction_factor=4 does not divide"),
        (("--reduction-factor", 2, "--memory-layer", 6), "memory_layer=6"),
        (("--reduction-factor", 2, "--chunk-size", 8, "--memory-size", 4), "chunk_size=8"),
        (("--reduction-factor", 2, "--learning-rate", 0), "learning_rate"),
        (("--reduction-factor", 2, "--fusion", "glue"), "fusion"),
        (("--reduction-factor", 2, "--max-tokens", "many"), "max-tokens"),
        (("--method", "window"), "nothing to train"),
        (("--method", "longmen"), "longmem"),
    ],
)
def test_a_config_that_cannot_be(run, book, tmp_path, options, says):
    line = one_line(run("train", "--data", book, "--out", tmp_path / "out", *TINY, "--max-steps", 1, *options))
    assert says in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option", [("--max-tokens", 0), ("--temperature", -1), ("--repetition-penalty", 0), ("--seed", "x")]
)
def test_sampling_that_cannot_be(run, bank, sidenet, option):
    assert option[0].strip("-")[:3] in one_line(run("ask", bank, "Who?", "--sidenet", sidenet, *option))


def test_a_window_that_cannot_be(run, book, sidenet):
    common = ("eval", "perplexity", "--data", book, *TINY, "--sidenet", sidenet)
    assert "local_window=1" in one_line(run(*common, "--window", 1))
    assert "max_tokens=1" in one_line(run(*common, "--max-tokens", 1))


def test_a_bank_of_another_model(run, bank, book, sidenet, tmp_path):
    from ltm.backbone import load_backbone
    from ltm.methods import create_method

    create_method("longmem", load_backbone("tiny-qwen3"), reduction_factor=2).save_pretrained(tmp_path / "qwen")
    before = snapshot(bank)
    other = ("--backbone", "tiny-qwen3", "--sidenet", tmp_path / "qwen")
    assert "architecture" in one_line(run("ask", bank, "Who?", *other))
    (tmp_path / "new.txt").write_text("Something new.")
    assert "architecture" in one_line(run("read", tmp_path / "new.txt", "-o", bank, *other))
    assert "trained for" in one_line(run("ask", bank, "Who?", "--sidenet", tmp_path / "qwen"))
    assert snapshot(bank) == before


def snapshot(path):
    """The files of a bank; the lock, which is empty, is none of them."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock")
    return {file.name: file.read_bytes() for file in files}


def test_damaged_banks(run, bank, sidenet, tmp_path):
    whole = snapshot(bank)
    assert whole
    for name, content in whole.items():
        for number, damaged in enumerate((content[: len(content) // 2], b"", flip(content))):
            copy = tmp_path / f"{name}-{number}.bank"
            shutil.copytree(bank, copy)
            next(copy.rglob(name)).write_bytes(damaged)
            assert one_line(run("bank", "verify", copy))
            asked = run("ask", copy, "Who?", "--sidenet", sidenet, "--max-tokens", 1)
            assert "Traceback" not in asked.err and (asked.code == 0 or one_line(asked))
            if number < 2:
                assert asked.code == 2, name


def flip(content: bytes) -> bytes:
    """One bit in the middle of the file is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_an_output_that_is_something_else(run, book, sidenet, tmp_path):
    (tmp_path / "file").write_text("mine")
    one_line(run("read", book, "-o", tmp_path / "file", *TINY, "--sidenet", sidenet))
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    one_line(run("read", book, "-o", tmp_path / "folder", *TINY, "--sidenet", sidenet))
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["mine.txt"]


@contextmanager
def full_disk(limit):
    """A limit on the size of files, in bytes, stands in for a full disk: a write fails in its middle."""
    resource = pytest.importorskip("resource", reason="this system cannot limit the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 300, 2000, 60_000])
def test_a_full_disk(run, bank, sidenet, tmp_path, limit):
    (tmp_path / "more.txt").write_text("More and more. " * 40)
    before = snapshot(bank)
    for out in (bank, tmp_path / "new"):
        with full_disk(limit):
            result = run("read", tmp_path / "more.txt", "-o", out, *TINY, "--sidenet", sidenet)
        assert "could not save" in one_line(result)
    assert snapshot(bank) == before
    assert not (tmp_path / "new").exists()


KILLED = """
import sys
import ltm.text.reading
ltm.text.reading.BLOCK_TOKENS, ltm.text.reading.SAVE_TOKENS = 32, 64
from ltm.cli import main
print("ready", flush=True)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_read_leaves_a_memory_that_loads(run, sidenet, tmp_path):
    (tmp_path / "long.txt").write_text("All work and no play makes Jack a dull boy. " * 200)
    bank, seen = tmp_path / "long.bank", []
    arguments = ["read", tmp_path / "long.txt", "-o", bank, *TINY, "--sidenet", sidenet]
    command = [sys.executable, "-c", KILLED, *map(str, arguments)]
    for delay in (0.0, 0.07):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()
        wait_for_growth(bank, len(seen))
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        tokens = Bank.load(bank).num_tokens(0)
        (document,) = Bank.load(bank).documents
        seen.append((tokens, document.complete))
        assert run("bank", "verify", bank).code == 0
    assert all(tokens > 0 for tokens, _ in seen)
    assert run(*arguments).code == 0  # and the same command finishes it
    (document,) = Bank.load(bank).documents
    assert document.complete and document.num_tokens == 8800


def wait_for_growth(bank, times):
    """Until the memory on disk is there, or has been replaced by this run."""
    began, before = time.monotonic(), set(snapshot(bank)) if times else set()
    while time.monotonic() - began < 60:
        if bank.exists() and Bank.exists(bank) and set(os.listdir(bank)) != before:
            return
        time.sleep(0.01)
    raise AssertionError("nothing was saved in a minute")


def test_an_interrupted_read_says_how_to_go_on(run, book, sidenet, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ltm.methods.attention.longmem.LongMem.read", interrupt)
    result = run("read", book, "-o", tmp_path / "a.bank", *TINY, "--sidenet", sidenet)
    assert result.code == 130 and "same command" in result.err and "Traceback" not in result.err
    assert len(result.err.splitlines()) == 1


def test_a_mistake_of_ours_keeps_its_traceback(book, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("ours")

    monkeypatch.setattr("ltm.cli.read._survey", fail)
    with pytest.raises(RuntimeError, match="ours"):
        main(["read", str(book), "-o", str(tmp_path / "a.bank")])
