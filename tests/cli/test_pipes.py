"""Texts and questions piped in, HTML told, and files that are not written over."""

from __future__ import annotations

import io
import json

import pytest
from conftest import one_line

from ltm.bank import Bank

E = ("--backbone", "tiny-llama", "--method", "em_llm")
TEXT = "Call me Ishmael. Some years ago I went to sea. The whale is white.\n" * 4


@pytest.fixture
def pipe(monkeypatch):
    def pipe(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return pipe


def test_texts_and_questions_come_through_pipes(run, pipe, tmp_path):
    bank, short = tmp_path / "bank", ("--max-tokens", 3, "--json")
    pipe(TEXT)
    assert run("read", "-", "-o", bank, *E, "--name", "moby.txt").code == 0
    assert [info.name for info in Bank.read_manifest(bank).document_infos] == ["moby.txt"]
    asked = run("ask", bank, "Who?", *E, *short).json()
    pipe("Who?\n")
    assert run("ask", bank, "-", *E, *short).json()["token_ids"] == asked["token_ids"]
    pipe(TEXT)  # under no name, which stands above its passages
    alone = ("--recall", "memory")
    piped = run("ask", "-", "Who?", *E, *short, *alone).json()
    assert piped["token_ids"] == run("ask", bank, "Who?", *E, *short, *alone).json()["token_ids"]
    assert "both the text and the question" in one_line(run("ask", "-", "-", *E))
    assert "questions come from" in one_line(run("chat", "-", *E))
    pipe(run("bank", "export", bank).out)
    assert run("bank", "import", "-", "-o", tmp_path / "again", *E).code == 0
    pipe(TEXT)
    scored = ("eval", "perplexity", "--data", "-", "--backbone", "tiny-llama", "--method", "window", "--window", 32)
    assert run(*scored).code == 0


def test_html_that_is_no_page_is_told(run, tmp_path):
    page = f"<html><body><p>{TEXT}</p></body></html>"
    for name, told in (("page.html", False), ("page.txt", True)):
        (tmp_path / name).write_text(page)
        assert ("looks like HTML" in run("read", tmp_path / name, "-o", tmp_path / "bank", *E).err) == told
    kept = Bank.load(tmp_path / "bank")
    assert [kept.document_text(info.id) for info in kept.documents] == [TEXT.replace("\n", " ").strip() + "\n", page]
    assert "looks like HTML" in run("ask", tmp_path / "page.txt", "Who?", *E, "--max-tokens", 1).err


def test_files_of_others_are_not_written_over(run, tmp_path):
    (tmp_path / "moby.txt").write_text(TEXT)
    bank, mine = tmp_path / "bank", tmp_path / "notes.html"
    assert run("read", tmp_path / "moby.txt", "-o", bank, *E).code == 0
    mine.write_text("mine")
    manifest = (bank / "manifest.json").read_bytes()
    for target in (mine, bank / "manifest.json", tmp_path / "moby.txt"):
        before = target.read_bytes()
        asked = run("ask", bank, "Who?", "--trace", "--page", target, *E, "--max-tokens", 1)
        assert "was left as it is" in one_line(asked) and asked.out == ""  # told before an answer is made
        assert "was left as it is" in one_line(run("bank", "export", bank, "-o", target))
        assert target.read_bytes() == before
    assert (bank / "manifest.json").read_bytes() == manifest
    texts, page = tmp_path / "texts.jsonl", tmp_path / "page.html"
    for _ in range(2):  # what was written here before may be replaced
        assert run("bank", "export", bank, "-o", texts).code == 0
        assert run("ask", bank, "Who?", "--trace", page, *E, "--max-tokens", 1).code == 0
    texts.write_text(json.dumps({"text": "a user's own lines"}) + "\n")
    assert "was left as it is" in one_line(run("bank", "export", bank, "-o", texts))


def test_a_question_may_end_in_html(run, tmp_path):
    (tmp_path / "moby.txt").write_text(TEXT)
    page, question = tmp_path / "page.html", "What is index.html"
    for arguments in ((question, "--trace", page), ("--trace", page, question)):
        assert run("ask", tmp_path / "moby.txt", *arguments, *E, "--max-tokens", 1).code == 0
        assert f"<h1>{question}</h1>" in page.read_text()
        page.unlink()
    assert run("ask", tmp_path / "moby.txt", question, *E, "--max-tokens", 1, "--trace").code == 0


def test_training_and_benchmarks_leave_files_of_others(run, book, tmp_path):
    common = ("--backbone", "tiny-llama")
    out = tmp_path / "out"
    sizes = ("--max-steps", 1, "--reduction-factor", 2, "--segment-size", 32)
    train = ("train", "--data", book, "--out", out, *common, *sizes)
    for name in ("log.jsonl", "train_config.json", "ltm_method.json"):
        out.mkdir(exist_ok=True)
        (out / name).write_text("{}")
        assert f"holds {name}, not of a training run" in one_line(run(*train))
        assert {file.name: file.read_text() for file in out.iterdir()} == {name: "{}"}
        (out / name).unlink()
    (tmp_path / "data" / "books").mkdir(parents=True)
    (tmp_path / "data" / "books" / "test.jsonl.gz").write_bytes(_packed(TEXT))
    bench = ("bench", "run", "--data", tmp_path / "data", "--out", out, "--methods", "window", "--window", 32, *common)
    bench = (*bench, "--set", "long_text.kinds=books", "--set", "long_text.max_tokens=80")
    for name in ("long_text.window.json", "long_text.window.records.jsonl"):
        (out / name).write_text("mine")
        for options in ((), ("--restart",)):
            assert name in one_line(run(*bench, *options))
            assert (out / name).read_text() == "mine"
        (out / name).unlink()
    assert run(*bench).code == 0 and run(*bench, "--restart").code == 0


def _packed(text: str) -> bytes:
    import gzip

    return gzip.compress(json.dumps({"id": "a", "text": text}).encode())
