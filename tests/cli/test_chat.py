"""ltm chat: turns, commands, and what a memory keeps of them."""

from __future__ import annotations

import io
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
    assert "/what is no command; there are: /why, /forget, /quit" in told.err
    assert "moby.txt [" in told.err and "forgotten" in told.err and "remembered as" not in told.err
    assert [info.name for info in Bank.load(bank).documents] == ["moby.txt"]  # nothing was left to keep


def test_nothing_is_kept_where_nobody_wants_it(run, memory, book, monkeypatch):
    assert "remembered" not in chat(run, monkeypatch, memory, *E, "--no-keep", says="Who?\n").err
    told = chat(run, monkeypatch, book, "--backbone", "tiny-llama", *E, says="Who?\n")  # a text: no memory on disk
    assert told.code == 0 and "remembered" not in told.err
    assert len(Bank.load(memory).documents) == 1


def test_an_answer_that_is_stopped_is_dropped(run, memory, monkeypatch):
    calls = []

    def ask(self, question, **options):
        calls.append(len(options["history"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "ask", ask)
    told = chat(run, monkeypatch, memory, *E, says="Who?\nWhere?\n")
    assert told.code == 0 and calls == [0, 0] and told.err.count("stopped") == 2


def test_what_was_said_is_kept_when_a_line_is_no_text(run, memory, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Who?\ncaf\xe9\n"), errors="surrogateescape"))
    told = run("chat", memory, *E)
    assert told.code == 2 and "not UTF-8" in told.err and "remembered as chat" in told.err


def test_a_transcript_reads_well(monkeypatch):
    turns, kept = [{"role": "user", "content": "Who? "}, {"role": "assistant", "content": " Me."}], []
    monkeypatch.setattr(Session, "read", lambda self, text, name: kept.append((text, name)))
    Session.keep(Session.__new__(Session), turns, "chat")
    assert kept == [("User: Who?\n\nAssistant: Me.\n\n", "chat")]
