"""ltm chat --server: the same words as with a memory of one's own, against a server on a socket."""

from __future__ import annotations

import io
import json
import signal
import sys
from concurrent.futures import Future
from threading import Timer, main_thread

import pytest

from ltm.cli import main


@pytest.fixture
def running(serve, text_model):
    return serve(text_model, max_body=5000)


@pytest.fixture
def client(running, keys):
    return running.client(keys.create("mine", user="me")[1])


@pytest.fixture
def chat(running, keys, monkeypatch, capsys):
    """chat("Who?", "/why") -> (code, JSON lines, stderr)"""
    key = keys.create("chat", user="me")[1]

    def run(*said, options=("--json",), key=key):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join([*said, ""]).encode())))
        monkeypatch.setenv("LTM_API_KEY", key)
        code = main(["chat", "--server", running.url, "--max-tokens", "4", *options])
        told = capsys.readouterr()
        return code, list(map(json.loads, told.out.splitlines())) if "--json" in options else told.out, told.err

    return run


def items(client):
    return [one["text"] for one in client.get("/memory/items", cast_to=dict)["data"] if one["source"] == "user"]


def test_what_is_said_is_remembered_told_and_forgotten(chat, client):
    _, (said,), _ = chat("My cat is called Tom.")  # another conversation: what a window holds is not recalled
    code, (asked, why, listed, found), err = chat("Who is my cat?", "/why", "/memory", "/memory cat")
    assert code == 0 and err == "" and len(said["written"]) == 2 and said["used"] == []
    assert [one["text"] for one in asked["used"]] == ["My cat is called Tom."] and why["used"] == asked["used"]
    assert {one["text"] for one in listed["memory"]} >= {"My cat is called Tom.", "Who is my cat?"}
    assert found["memory"][0]["source"] == "user" and found["memory"][0]["score"] > 0
    tom = said["written"][0]
    code, (gone, again), _ = chat(f"/forget {tom}", f"/forget {tom}")
    assert gone == {"forgotten": tom} and "there is no item" in again["error"]
    assert items(client) == ["Who is my cat?"]


def test_forgetting_what_was_said_leaves_what_was_known(chat, client):
    chat("My cat is called Tom.")
    code, (said, _, later), _ = chat("My dog is called Rex.", "/forget", "Who is my dog?")
    assert code == 0 and items(client) == ["My cat is called Tom.", "Who is my dog?"]


def test_as_of_uses_what_was_known_then(chat, client, monkeypatch):
    client.post("/memory/items", cast_to=dict, body={"text": "My cat is called Tom."})
    early, now = "/as-of 1999-01-01", "/as-of 2999-01-01T00:00"
    code, (_, none, _, used, _, everything), _ = chat(early, "My cat?", now, "The cat?", "/as-of", "A cat?")
    assert code == 0 and none["used"] == [] and "My cat is called Tom." in [one["text"] for one in used["used"]]
    assert {one["text"] for one in everything["used"]} >= {"My cat is called Tom."}
    assert not any("data, no instruction" in text for text in items(client))  # what was put before it is not taken in


def test_people_see_the_text_as_it_comes_and_the_rest_on_stderr(chat, client):
    code, out, err = chat("Hello.", "/why", "/memory", options=())
    assert code == 0 and "Ask away" in err and "tokens/s" in err and "no memory was used" in err and "Hello." in err
    assert out.strip() and "Hello." not in out


def test_nothing_is_kept_where_nobody_wants_it(chat, client):
    code, (said,), _ = chat("My cat is called Tom.", options=("--json", "--no-keep"))
    assert said["written"] == [] and items(client) == []


def test_ctrl_c_ends_the_answer_alone(chat, running, monkeypatch):
    whole, heard = running.server.engine.answer, []

    def stuck(work, listener):
        heard.append(listener)
        if len(work.messages) > 1:
            return whole(work, listener)
        Timer(0.3, signal.pthread_kill, [main_thread().ident, signal.SIGINT]).start()
        listener.hear(0, "It is ")
        return Future()

    monkeypatch.setattr(running.server.engine, "answer", stuck)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background start with it ignored
    try:
        code, (stopped, after), _ = chat("Who?", "Go on.")
    finally:
        signal.signal(signal.SIGINT, former)
    assert code == 0 and stopped == {"question": "Who?", "text": "It is ", "stopped": True}
    assert heard[0].is_gone and after["text"]  # the server stops, and the conversation goes on


def test_a_failure_of_one_request_ends_no_conversation(chat, running, monkeypatch):
    code, (failed, fine), _ = chat("x" * 6000, "Hello.")
    assert code == 0 and "larger than 5,000 bytes" in failed["error"] and fine["text"]
    code, lines, err = chat("Hello.", key="ltm_none")
    assert code == 2 and not lines and "no key, or none that counts" in err and len(err.splitlines()) == 1
