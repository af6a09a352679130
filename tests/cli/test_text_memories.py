"""Memories of text by the commands: read, asked, listed, forgotten, and what knows banks alone."""

from __future__ import annotations

import io
import json

import pytest
from conftest import one_line

from ltm.notes import encoder
from ltm.notes.store import NoteStore

TEXTS = {"letter.txt": "The brass key lies under the doormat.\n", "talk.txt": "Wendy paints zeppelins.\n"}


@pytest.fixture
def notes(run, tmp_path, monkeypatch):
    """A memory of two texts, with an encoder that needs nothing."""
    monkeypatch.setattr(encoder, "DEFAULT_ENCODER", "hash")
    monkeypatch.setattr("ltm.notes.encoder.load_encoder", lambda name: encoder.HashEncoder())
    monkeypatch.setattr("ltm.text.means.load_encoder", lambda name: encoder.HashEncoder())
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    files = [tmp_path / name for name in TEXTS]
    made = run("read", *files, "-o", tmp_path / "notes", "--method", "rag", "--json")
    assert made.code == 0, made.err
    facts = made.json()
    assert facts["words"] == 10 and facts["bank_notes"] == 2
    assert facts["documents"][0] == {"name": "letter.txt", "words": 7, "new": True}
    return tmp_path / "notes"


def test_it_is_known_without_its_method(run, notes):
    again = run("read", notes.parent / "talk.txt", "-o", notes)
    assert "talk.txt is in" in again.err and "holds 2 notes" in again.err
    asked = run("ask", notes, "Where is the brass key?", "--backbone", "tiny-llama", "--max-tokens", "2", "--json")
    assert asked.code == 0 and len(asked.json()["token_ids"]) <= 2, asked.err


def test_it_is_listed_and_forgotten(run, notes):
    assert [found["name"] for found in run("bank", "list", notes, "--json").json()] == list(TEXTS)
    assert "words held" in run("bank", "list", notes).out
    gone = run("bank", "delete", notes, "letter.txt", "--json").json()
    assert (gone["name"], gone["left_behind"]) == ("letter.txt", "")
    assert json.loads(run("bank", "list", notes, "--json").out)[0]["name"] == "talk.txt"
    assert b"doormat" not in b"".join(file.read_bytes() for file in notes.rglob("*") if file.is_file())


def test_options_of_the_method_stand_behind_its_name(run, tmp_path):
    (tmp_path / "a.txt").write_text("The brass key lies under the doormat. Wendy paints zeppelins on Thursdays.")
    made = run(
        "read", tmp_path / "a.txt", "-o", tmp_path / "b", "--method", "rag:encoder=hash,passage_words=7", "--json"
    )
    assert made.code == 0 and made.json()["bank_notes"] == 2, made.err
    asked = ("Who paints?", "--backbone", "tiny-llama", "--max-tokens", "2", "--trace")
    told = run("ask", tmp_path / "b", *asked, "--method", "rag:num_passages=1")
    assert "[1] in the window: a.txt [38-74]" in told.err and "[2]" not in told.err, told.err
    assert "was made with passage_words=7" in one_line(
        run("ask", tmp_path / "b", *asked, "--method", "rag:passage_words=9")
    )
    assert "has no option" in one_line(run("ask", tmp_path / "b", *asked, "--method", "rag:nonsense=9"))


def test_a_conversation_is_kept_with_its_roles(run, notes, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("I like plums.\n/why\n"))
    talked = run("chat", notes, "--backbone", "tiny-llama", "--max-tokens", "4")
    assert "remembered as chat" in talked.err and "letter.txt [0-37]" in talked.err, talked.err
    events = NoteStore.load(notes)[0].events()
    assert [event.role for event in events] == ["document", "document", "user", "assistant"]
    assert events[2].text == "I like plums." and events[2].source in run("bank", "list", notes).out
    assert run("bank", "delete", notes, events[2].source).code == 0
    assert len(NoteStore.load(notes)[0].events()) == 2


@pytest.mark.parametrize("command", ["info", "verify", "compact", "export"])
def test_what_is_about_banks_says_so(run, notes, command):
    assert "keeps no bank" in one_line(run("bank", command, notes))


def test_options_of_banks_are_refused(run, notes):
    told = one_line(run("read", notes.parent / "talk.txt", "-o", notes, "--memory-size", "4"))
    assert "method rag has no option memory_size" in told
