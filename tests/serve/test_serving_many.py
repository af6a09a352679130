"""Clients that come together, wait, go away, or meet a server that stops."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from urllib.parse import urlsplit

import openai
import pytest

from ltm.errors import LtmError
from ltm.methods.registry import method_class
from ltm.serve import answering as answering_module
from ltm.serve.engine import ChatWork, Listener
from ltm.serve.errors import ApiError
from ltm.serve.identity import Caller
from ltm.serve.served_model import ServedModel
from ltm.text.means import Means

HI = [{"role": "user", "content": "My cat is Tom."}]


@pytest.fixture
def wait_for():
    """wait_for(condition): until it is so."""

    def wait(condition, seconds=20.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come about"
            time.sleep(0.01)

    return wait


@pytest.fixture
def running(serve, longmem):
    return serve(longmem, queue_size=2, most_tokens=3000)


@pytest.fixture
def held(running):
    """The engine's thread is held until this is set, once it has begun."""
    begun, go_on = Event(), Event()

    def wait():
        begun.set()
        assert go_on.wait(30)

    running.server.engine.run("somebody", wait)
    assert begun.wait(10)
    yield go_on
    go_on.set()


def raw_request(running, key, body):
    """A socket on which a request was sent."""
    address = urlsplit(running.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_decoding_stops_when_the_client_goes_away(running, key, monkeypatch, wait_for, stream):
    engine, made, began = running.server.engine, [], Event()
    choice = engine._choice

    def noted(*arguments):
        began.set()
        made.append(choice(*arguments))
        return made[-1]

    monkeypatch.setattr(engine, "_choice", noted)
    connection = raw_request(running, key, {"messages": HI, "max_tokens": 3000, "stream": stream})
    assert began.wait(10)
    connection.close()
    wait_for(lambda: made)
    assert made[0][1].num_tokens < 3000
    (memory,) = [entry.memory for entry in running.server.users._entries.values()]
    wait_for(lambda: memory.log.num_turns == 1)  # what the user said is known, the answer that nobody got is not
    assert running.client(key).chat.completions.create(model="tiny-llama", messages=HI).choices


def test_who_is_beyond_the_queue_is_told_to_come_again(running, key, held):
    work = ChatWork(Caller("default", None), HI, options={"max_new_tokens": 2})
    waiting = [running.server.engine.answer(work, Listener()) for _ in range(2)]
    with pytest.raises(openai.APIStatusError) as caught:
        running.client(key).chat.completions.create(model="tiny-llama", messages=HI)
    error = caught.value
    assert (error.status_code, error.code, error.response.headers["x-should-retry"]) == (503, "overloaded", "true")
    assert error.response.headers["retry-after"] == "2"
    held.set()
    assert all(future.result(20).choices for future in waiting)
    patient = running.client(key).with_options(max_retries=2)
    assert patient.chat.completions.create(model="tiny-llama", messages=HI).choices


def test_a_request_that_waits_and_is_given_up_is_never_answered(running, key, held, monkeypatch, wait_for):
    asked = []
    monkeypatch.setattr(running.server.engine, "_answer", lambda *arguments: asked.append(arguments))
    connection = raw_request(running, key, {"messages": HI})
    wait_for(lambda: running.server.engine.depth == 1)
    connection.close()
    wait_for(lambda: running.server.engine._queue._waiting["('default', 'me')"][0][0].cancelled())
    held.set()
    wait_for(lambda: running.server.engine.depth == 0)
    assert asked == []


def test_a_connection_is_kept_alive_while_it_waits(running, key, held, monkeypatch):
    monkeypatch.setattr(answering_module, "START_SECONDS", 0.05)
    monkeypatch.setattr(answering_module, "PING_SECONDS", 0.1)
    connection = raw_request(running, key, {"messages": HI, "stream": True})
    heard = b""
    while b": ping" not in heard:
        heard += connection.recv(1000)
    assert heard.startswith(b"HTTP/1.1 200") and b"data:" not in heard
    held.set()
    while b"[DONE]" not in heard:
        heard += connection.recv(1000)
    connection.close()


def test_what_goes_wrong_in_a_stream_is_an_event_of_it(running, key, held, monkeypatch):
    monkeypatch.setattr(answering_module, "START_SECONDS", 0.05)

    def fail(*_):
        raise LtmError("the well is dry")

    monkeypatch.setattr(running.server.engine, "_choice", fail)
    stream = running.client(key).chat.completions.create(model="tiny-llama", messages=HI, stream=True)
    held.set()
    with pytest.raises(openai.APIError, match="the well is dry"):
        list(stream)


def test_a_fault_of_ours_is_told_without_its_words(running, key, monkeypatch):
    def fail(*_):
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(running.server.engine, "_choice", fail)
    with pytest.raises(openai.InternalServerError) as caught:
        running.client(key).chat.completions.create(model="tiny-llama", messages=HI)
    assert "secret" not in str(caught.value) and caught.value.request_id
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_many_users_at_once_get_their_own(serve, longmem, keys):
    running = serve(longmem, memory_budget=600_000)  # room for one memory: they close and open all the time
    gateway = running.client(keys.create("gateway")[1])

    def talk(user):
        history, used = [], set()
        for turn in range(3):
            history.append({"role": "user", "content": f"Secret word of mine, number {turn}: {user * 2}."})
            made = gateway.chat.completions.create(model="tiny-llama", messages=history, max_tokens=3, user=user)
            history.append({"role": "assistant", "content": made.choices[0].message.content})
            written.setdefault(user, set()).update(made.model_extra["memory"]["written"])
            asked = [{"role": "user", "content": "What is my secret word?"}]
            made = gateway.chat.completions.create(model="tiny-llama", messages=asked, max_tokens=3, user=user)
            assert made.model_extra["memory"]["user"] == user
            used |= {one["id"] for one in made.model_extra["memory"]["used"]}
        return used

    users, written = [f"user{n}" for n in range(5)], {}
    with ThreadPoolExecutor(5) as pool:
        used = dict(zip(users, pool.map(talk, users), strict=True))
    assert all(used[user] and used[user] <= written[user] for user in users)
    assert running.server.users.num_closed > 5


def test_a_server_that_stops_ends_what_runs_and_keeps_what_was_said(running, key, keys, serve, longmem):
    connection = raw_request(running, key, {"messages": HI, "max_tokens": 3000, "stream": True})
    connection.recv(1000)
    started = time.monotonic()
    running.server.engine.close()
    assert time.monotonic() - started < 10
    with pytest.raises(ApiError, match="the server is stopping"):
        running.server.engine.answer(ChatWork(Caller("default", None), HI), Listener())
    connection.close()
    running.stop()
    made = serve(longmem).client(key).chat.completions.create(model="tiny-llama", messages=HI)
    assert len(made.model_extra["memory"]["written"]) == 1  # the answer; the question was known


def test_memory_of_text_and_no_memory_are_served_the_same_way(serve, backbone, keys, key):
    rag = method_class("rag")
    running = serve(ServedModel(backbone, rag.open(rag.config_class(encoder="hash"), Means(backbone))))
    client = running.client(key)
    for text in ("My cat is Tom.", "Who is Tom, my cat?"):
        question = [{"role": "user", "content": text}]
        memory = client.chat.completions.create(model="tiny-llama:text", messages=question).model_extra["memory"]
    assert memory["used"] and memory["tokens_remembered"] is None
    with pytest.raises(openai.BadRequestError, match="no effect on memory of text"):
        client.chat.completions.create(model="tiny-llama", messages=HI, extra_body={"memory": {"k": 2}})
    running.stop()
    off = serve(ServedModel(backbone)).client(key)
    assert off.chat.completions.create(model="tiny-llama", messages=HI).model_extra["memory"]["user"] is None
    with pytest.raises(openai.NotFoundError):
        off.chat.completions.create(model="tiny-llama:longmem", messages=HI)


def test_a_history_beyond_the_positions_is_told_where_they_end(serve, tiny_backbone, keys, key):
    backbone = tiny_backbone("tiny-gpt2")
    client = serve(ServedModel(backbone)).client(key)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny-gpt2", messages=[{"role": "user", "content": "x" * 9000}])
    assert caught.value.code == "context_length_exceeded"
