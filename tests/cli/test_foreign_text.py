"""Names and texts from elsewhere: shown as they are on every way out, on every kind of stream; output never fails."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
import time

import pytest
from conftest import one_line

from ltm.bank import Bank
from ltm.cli import main

E = ("--backbone", "tiny-llama", "--method", "em_llm")
TEXT = "The harbour master wrote every ship in a grey book. " * 4
NAMES = ["chat [/INST] 7", "two\nlines\t\x1b[31mred", "invoice\u202efdp.exe", "größe 漢字 👍"]
SHOWN = ["chat [/INST] 7", "two\\nlines\\t\\x1b[31mred", "invoice\\u202efdp.exe", "größe 漢字 👍"]


def json_lines(path, *ids):
    path.write_text("".join(json.dumps({"id": name, "text": f"{name}: {TEXT}"}) + "\n" for name in ids))
    return path


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A memory of documents with names that act on terminals."""
    folder = tmp_path_factory.mktemp("odd")
    assert main(["read", str(json_lines(folder / "odd.jsonl", *NAMES)), "-o", str(folder / "bank"), *E]) == 0
    return folder / "bank"


@pytest.mark.slow  # a process of its own; tests/test_console.py has the bar
@pytest.mark.skipif(sys.platform == "win32", reason="a pty")
def test_a_terminal_gets_names_and_no_orders(tmp_path):
    """The bar of a real terminal took names for markup, and died of `[/INST]`."""
    import pty

    file = json_lines(tmp_path / "odd.jsonl", *NAMES)
    command = [sys.executable, "-m", "ltm.cli", "read", str(file), "-o", str(tmp_path / "bank"), *E]
    outer, inner = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=environment)
    os.close(inner)
    seen, until = b"", time.monotonic() + 120
    while time.monotonic() < until:
        ready, _, _ = select.select([outer], [], [], 1)
        try:
            seen += os.read(outer, 65536) if ready else b""
        except OSError:  # the other side is closed
            break
    assert process.wait(10) == 0, seen
    assert b"Traceback" not in seen and b"\x1b[31mred" not in seen and "\u202e".encode() not in seen


def test_lists_exports_and_pages_show_every_name(run, odd, tmp_path):
    table = run("bank", "list", odd)
    rows = [line for line in table.out.splitlines() if line.startswith("│")]
    assert len(rows) == len(NAMES) and all(name in row for name, row in zip(SHOWN, rows, strict=True))
    assert [document["name"] for document in run("bank", "list", odd, "--json").json()] == NAMES
    exported = run("bank", "export", odd).out
    assert [json.loads(line)["id"] for line in exported.splitlines()] == NAMES
    page = tmp_path / "page.html"
    asked = run("ask", odd, "Who\x1b[31m?", "--trace", page, *E, "--max-tokens", 2)
    assert asked.code == 0 and "Who\\x1b[31m?" in page.read_text()
    for text in (table.out, exported, page.read_text(), asked.err):
        assert "\x1b" not in text and "\u202e" not in text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_character_ends_an_answer(monkeypatch, capsys, odd, encoding):
    def run(*arguments):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
        monkeypatch.setattr("sys.stdout", stream)
        assert main([str(argument) for argument in arguments]) == 0
        stream.flush()
        return stream.buffer.getvalue().decode(encoding)

    assert "chat [/INST] 7" in run("bank", "list", odd)
    assert [document["name"] for document in json.loads(run("bank", "list", odd, "--json"))] == NAMES
    assert [json.loads(line)["id"] for line in run("bank", "export", odd).splitlines()] == NAMES
    asked = ("ask", odd, "漢字 👍?", "--backbone", "tiny-llama", "--method", "em_llm", "--max-tokens", 4)
    assert json.loads(run(*asked, "--json"))["token_ids"] and run(*asked)


def test_half_characters_are_refused_when_read(run, tmp_path):
    for number, record in enumerate(({"id": "note \ud83d", "text": TEXT}, {"id": "note", "text": "half \ud83d"})):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(record) + "\n")
        line = one_line(run("read", tmp_path / f"{number}.jsonl", "-o", tmp_path / "bank", *E))
        assert "half a surrogate pair" in line and f"{number}.jsonl:1" in line
    assert not (tmp_path / "bank").exists()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_a_file_name_that_is_no_utf8_is_kept_as_it_is_shown(run, tmp_path):
    file = tmp_path / os.fsdecode(b"caf\xe9 [x].txt")
    file.write_text(TEXT)
    bank = tmp_path / "bank"
    read = run("read", file, "-o", bank, *E, "--json")
    assert read.json()["documents"][0]["name"] == "caf\\xe9 [x].txt"
    assert "caf\\xe9 [x].txt" in run("bank", "list", bank).out
    assert "already" in run("read", file, "-o", bank, *E).err
    assert run("bank", "delete", bank, file.name).code == 0 and not Bank.read_manifest(bank).document_infos


def test_a_document_is_deleted_by_the_name_that_is_shown(run, tmp_path):
    run("read", json_lines(tmp_path / "a.jsonl", *NAMES), "-o", tmp_path / "bank", *E)
    for name in SHOWN:
        assert run("bank", "delete", tmp_path / "bank", name).code == 0
    assert Bank.read_manifest(tmp_path / "bank").document_infos == []


@pytest.mark.slow  # a process for each
@pytest.mark.skipif(sys.platform == "win32", reason="a shell's streams")
def test_streams_that_are_closed_or_broken_or_full(odd, tmp_path):
    ltm = f"{sys.executable} -m ltm.cli"
    for line, codes, says in (
        (f"{ltm} bank list '{odd}' | true; echo ${{PIPESTATUS[0]}}", ["0"], ""),
        (f"{ltm} bank list '{odd}' --json >&-; echo $?", ["0"], ""),
        (f"{ltm} bank list '{odd}' >/dev/full; echo $?", ["2"], "ltm: No space left on device\n"),
        (f"{ltm} bank info nowhere 2>&-; echo $?", ["2"], ""),
        (f"{ltm} read - -o '{tmp_path / 'bank'}' <&-; echo $?", ["2"], "ltm: standard input is empty"),
    ):
        if "/dev/full" in line and not os.path.exists("/dev/full"):
            continue
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
        assert done.stdout.split()[-1:] == codes and done.stderr.startswith(says), (line, done)
        assert len(done.stderr.splitlines()) <= 1, (line, done)
