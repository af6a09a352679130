"""ltm chat: turns, commands, and what a memory keeps of them."""

from __future__ import annotations

import io
import json
import sys

import pytest

from ltm.bank import Bank
from ltm.text.session import Session

E = ("--method", "em_llm", "--max-tokens", 3)


@pytest.fixture
def memory(run, book, tmp_path):
    assert run("read", book, "-o", tmp_path / "bank", "--backbone", "tiny-llama", "--method", "em_llm").code == 0
    return tmp_path / "bank"


def chat(run, monkeypatch, *arguments, says):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(says.encode()), errors="surrogateescape"))
    return run("chat", *arguments)


def test_every_line_is_answered_and_kept(run, memory, monkeypatch):
    seen = []
    ask = Session.ask
    monkeypatch.setattr(Session, "ask", lambda *a, **o: seen.append([*o["history"]]) or ask(*a, **o))
    told = chat(run, monkeypatch, memory, *E, says="Who?\n\n  Where?  \n/quit\nnever asked\n")
    assert told.code == 0 and told.err.count("tokens/s") == 2 and len(told.out.splitlines()) >= 2
    assert [len(history) for history in seen] == [0, 2] and seen[1][0] == {"role": "user", "content": "Who?"}
    bank = Bank.load(memory)
    name = bank.documents[-1].name
    text = bank.document_text(bank.documents[-1].id)
    assert name.startswith("chat 20") and name in told.err
    assert text.startswith("User: Who?\n\nAssistant: ") and "User: Where?" in text and "never" not in text
    command = next(line for line in told.err.splitlines() if "to forget it: " in line).partition("to forget it: ")[2]
    import shlex

    assert run(*shlex.split(command)[1:]).code == 0 and len(Bank.load(memory).documents) == 1


def test_commands(run, bank, sidenet, monkeypatch):
    says = "/why\n/what\nWho is Ishmael?\n/why\n/forget\n/why\n"
    told = chat(run, monkeypatch, bank, "--sidenet", sidenet, "--max-tokens", 3, says=says)
    assert told.code == 0 and told.err.count("nothing was answered yet") == 2
    assert "/what is no command; there are: /memory, /why, /forget, /as-of, /save, /help, /quit" in told.err
    assert "moby.txt [" in told.err and "forgotten" in told.err and "remembered as" not in told.err
    assert [info.name for info in Bank.load(bank).documents] == ["moby.txt"]  # nothing was left to keep


def test_nothing_is_kept_where_nobody_wants_it(run, memory, book, monkeypatch):
    assert "remembered" not in chat(run, monkeypatch, memory, *E, "--no-keep", says="Who?\n").err
    told = chat(run, monkeypatch, book, "--backbone", "tiny-llama", *E, says="Who?\n")  # a text: no memory on disk
    assert told.code == 0 and "remembered" not in told.err
    assert len(Bank.load(memory).documents) == 1


def test_an_answer_that_is_stopped_leaves_what_came_of_it(run, memory, monkeypatch):
    calls = []

    def ask(self, question, *, on_text, history, **options):
        calls.append(len(history))
        if question == "Where?":
            on_text("On the ")
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "ask", ask)
    told = chat(run, monkeypatch, memory, *E, says="Who?\nWhere?\nWhen?\n")
    assert told.code == 0 and calls == [0, 0, 2] and told.err.count("stopped;") == 3 and "On the" in told.out
    assert told.err.count("this question is dropped") == 2


@pytest.fixture
def notes(run, book, tmp_path):
    """A memory of text."""
    assert run("read", book, "-o", tmp_path / "notes", "--method", "rag", "--backbone", "tiny-llama").code == 0
    return tmp_path / "notes"


def lines(told):
    return [json.loads(line) for line in told.out.splitlines()]


def test_for_scripts_every_line_of_stdout_is_json(run, notes, monkeypatch):
    says = "/memory\n/why\nWho?\n/why\n/memory whale\n/as-of 1999-01-01\n/memory whale\nWho?\n/as-of\n"
    says += '"""\nTwo\n  lines?\n"""\n'
    says += "/as-of soon\n/forget zork\n/forget moby.txt\n/memory\n/forget\n"
    told = chat(run, monkeypatch, notes, "--max-tokens", 3, "--json", says=says)
    assert told.code == 0, told.err
    known, too_early, who, why, whale, _, none, early, _, two, soon, zork, gone, empty, dropped = lines(told)
    assert [one["id"] for one in known["memory"]] == ["moby.txt"] and known["memory"][0]["time"] > "2020"
    assert too_early == {"error": "nothing was answered yet"}
    assert who["question"] == "Who?" and who["tokens"] == 3 and not who["ended"] and who["used"]
    assert why["used"] == who["used"] and whale["memory"][0]["id"] == "moby.txt" and none["memory"] == []
    assert early["used"] == [] and two["question"] == "Two\n  lines?" and two["used"]
    assert "soon is no time" in soon["error"] and "no document 'zork'" in zork["error"]
    assert gone == {"forgotten": "moby.txt"} and empty == {"memory": []} and dropped == {"forgotten": None}


def test_a_bank_keeps_no_times(run, bank, sidenet, monkeypatch):
    told = chat(run, monkeypatch, bank, "--sidenet", sidenet, says="/as-of 2026-01-01\n/memory\n/help\n")
    assert told.code == 0 and "keeps no times" in told.err and "Call me Ishmael" in told.err and "/quit" in told.err


def test_what_was_said_is_written_to_a_new_file_alone(run, memory, monkeypatch, tmp_path):
    says = f"/save {tmp_path}/a.txt\nWho?\n/save {tmp_path}/a.txt\n/save {tmp_path}/a.txt\n/save\n"
    told = chat(run, monkeypatch, memory, *E, "--no-keep", says=says)
    assert (tmp_path / "a.txt").read_text().startswith("User: Who?\n\nAssistant: ")
    assert "nothing was said yet" in told.err and "was left as it is" in told.err and "give a file" in told.err


def test_what_cannot_be_is_one_line(run, memory):
    for arguments, words in [
        ((), "give a memory or a text to talk about, or --server URL"),
        ((memory, "--server", "http://localhost:1"), "give a memory or a text"),
        (("--server", "http://localhost:1", "--recall", "off"), "--recall: no effect with --server"),
        (("--server", "http://localhost:1"), "a server wants to know who you are"),
        (("--server", "localhost:1", "--key", "x"), "is no address of a server"),
        (("--server", "http://127.0.0.1:1", "--key", "x"), "cannot be reached"),
    ]:
        told = run("chat", *arguments)
        assert told.code == 2 and words in told.err and len(told.err.splitlines()) == 1, told


def test_what_was_said_is_kept_when_a_line_is_no_text(run, memory, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Who?\ncaf\xe9\n"), errors="surrogateescape"))
    told = run("chat", memory, *E)
    assert told.code == 2 and "not UTF-8" in told.err and "remembered as chat" in told.err


def test_a_transcript_reads_well(monkeypatch):
    turns, kept = [{"role": "user", "content": "Who? "}, {"role": "assistant", "content": " Me."}], []
    monkeypatch.setattr(Session, "read", lambda self, text, name: kept.append((text, name)))
    Session.keep(Session.__new__(Session), turns, "chat")
    assert kept == [("User: Who?\n\nAssistant: Me.\n\n", "chat")]
