"""Writes that are asked for again: done once, answered the same, also after a restart; gone with what they hold."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from threading import Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from ltm.serve import replays as replays_module
from ltm.serve.replays import Replay, Replays, name_of

CHAT = {"messages": [{"role": "user", "content": "My cat is Tomcattish."}], "temperature": 1.5}


def send(running, key, body=CHAT, path="/v1/chat/completions", method="POST", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers |= {"authorization": f"Bearer {key}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(running.url + path, data, headers, method=method), timeout=60) as answered:
            return answered.status, answered.read(), answered.headers
    except HTTPError as error:
        return error.code, error.read(), error.headers


def test_the_same_answer_after_a_restart(serve, longmem, key):
    running = serve(longmem)
    first = send(running, key, Idempotency_Key="one")
    other = send(running, key)
    running.stop()
    again = send(serve(longmem), key, Idempotency_Key="one")
    assert first[0] == again[0] == 200 and first[1] == again[1] != other[1]
    assert again[2]["x-ltm-replayed"] == "true" and first[2]["x-ltm-replayed"] is None
    assert again[2]["content-type"] == "application/json" and again[2]["x-request-id"] != first[2]["x-request-id"]


@pytest.mark.slow
def test_another_body_under_the_same_key(serve, longmem, key, keys):
    running = serve(longmem)
    send(running, key, Idempotency_Key="one")
    status, said, headers = send(running, key, {**CHAT, "seed": 2}, Idempotency_Key="one")
    assert status == 409 and json.loads(said)["error"]["code"] == "key_reused"
    assert headers["x-should-retry"] == "false"
    theirs = keys.create("theirs", user="ann")[1]
    assert send(running, theirs, {**CHAT, "seed": 2}, Idempotency_Key="one")[0] == 200
    assert send(running, key, Idempotency_Key="x" * 300)[0] == 400


def test_a_client_that_tries_again_and_one_that_asks_again(serve, longmem, key):
    running = serve(longmem)
    first = send(running, key, x_stainless_retry_count="0")[1]
    assert send(running, key, x_stainless_retry_count="1")[1] == first
    apart = {**CHAT, "memory": {"write": False}}
    assert (
        send(running, key, apart, x_stainless_retry_count="0")[1]
        != send(running, key, apart, x_stainless_retry_count="1")[1]
    )  # nothing is kept of it
    anew = send(running, key, x_stainless_retry_count="0")[1]
    assert anew != first and send(running, key, x_stainless_retry_count="2")[1] == anew


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_stream_is_sent_again(serve, longmem, key, path):
    running = serve(longmem)
    body = {**CHAT, "stream": True} if "chat" in path else {"input": "My cat is Tom.", "stream": True}
    first, again = (send(running, key, body, path, Idempotency_Key="one") for _ in range(2))
    assert first[1] == again[1] and again[2]["x-ltm-replayed"] == "true"
    assert again[2]["content-type"].startswith("text/event-stream")


def test_what_is_added_twice_is_there_once(serve, longmem, key):
    running = serve(longmem)
    add = {"items": [{"role": "user", "content": "My cat is grey."}]}
    made = [send(running, key, add, "/v1/conversations", Idempotency_Key="one")[1] for _ in range(2)]
    assert made[0] == made[1]
    name = json.loads(made[0])["id"]
    for _ in range(2):
        assert send(running, key, add, f"/v1/conversations/{name}/items", x_stainless_retry_count="1")[0] == 200
    listed = json.loads(send(running, key, None, f"/v1/conversations/{name}/items", "GET")[1])["data"]
    assert len(listed) == 2


@pytest.mark.slow
def test_errors_are_not_sent_again(serve, longmem, key):
    running = serve(longmem)
    assert send(running, key, {**CHAT, "model": "zork"}, Idempotency_Key="one")[0] == 404
    assert send(running, key, Idempotency_Key="one")[0] == 200


def test_two_at_the_same_time_are_done_once(serve, longmem, key):
    running, heard = serve(longmem), []
    threads = [Thread(target=lambda: heard.append(send(running, key, Idempotency_Key="one")[1])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(heard) == 4 and len(set(heard)) == 1


def test_what_is_forgotten_is_in_no_answer_that_is_kept(serve, longmem, key):
    running = serve(longmem)
    first = json.loads(send(running, key, Idempotency_Key="one")[1])
    made = json.loads(send(running, key, {"input": "He is Greyish."}, "/v1/responses", Idempotency_Key="two")[1])

    def kept():
        files = [path for path in running.server.settings.directory.glob("replays*") if path.is_file()]
        return [path.name for path in files if b"chatcmpl" in path.read_bytes() or b"resp_" in path.read_bytes()]

    assert kept()
    assert send(running, key, None, f"/v1/memory/items/{first['memory']['written'][0]}", "DELETE")[0] == 200
    assert not kept() and b"x-ltm-replayed" not in send(running, key, Idempotency_Key="one")[1]
    assert kept()
    assert send(running, key, None, f"/v1/responses/{made['id']}", "DELETE")[0] == 200 and not kept()


def test_a_new_key_is_in_no_answer_that_is_kept(serve, longmem, keys):
    running, admin = serve(longmem), keys.create("admin", user="me", scopes=["admin", "chat", "memory:write"])[1]
    made = [
        send(running, admin, {"name": "laptop", "user": "me"}, "/v1/admin/keys", Idempotency_Key="one")
        for _ in range(2)
    ]
    assert [one[0] for one in made] == [200, 200] and made[0][1] != made[1][1]
    text = json.loads(made[0][1])["key"].encode()
    files = [path for path in running.server.settings.directory.rglob("*") if path.is_file()]
    assert text.startswith(b"ltm_") and not any(text in path.read_bytes() for path in files)


def test_the_store(tmp_path, monkeypatch):
    store, replay = Replays(tmp_path, longest=timedelta(seconds=50)), Replay("b", 200, [("a", "b")], b"c")
    store.add("one", "ann", replay, 100, time.monotonic())
    store.add("two", "bob", replay, 10, time.monotonic())
    assert store.find("one") == replay and store.find("zork") is None
    now = time.time()
    monkeypatch.setattr(replays_module.time, "time", lambda: now + 20)
    assert store.find("one") == replay and store.find("two") is None
    began = time.monotonic()
    store.forget("ann")
    store.add("one", "ann", replay, 100, began)  # what was forgotten meanwhile may be in it
    assert store.find("one") is None
    store.add("one", "ann", replay, 100, time.monotonic())
    monkeypatch.setattr(replays_module.time, "time", lambda: now + 71)
    assert store.find("one") is None
    store.close()
    assert name_of("a", "bc") != name_of("ab", "c")
