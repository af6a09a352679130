"""The official OpenAI client against a server on a socket: answers, streams, memory, errors."""

from __future__ import annotations

import json
import socket
from datetime import datetime, timezone
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import openai
import pytest

from ltm.serve import access

HI = [{"role": "user", "content": "My cat is Tom."}]
UNWRITTEN = {"extra_body": {"memory": {"write": False}}}
"""What is asked does not change what is answered next."""


@pytest.fixture
def running(serve, longmem):
    return serve(longmem)


def ask(client, messages=HI, **options):
    return client.chat.completions.create(**{"model": "tiny-llama", "messages": messages, **options})


def test_an_answer(me):
    made = ask(me, max_completion_tokens=5)
    (choice,) = made.choices
    assert made.object == "chat.completion" and made.id.startswith("chatcmpl-") and made.model == "tiny-llama"
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason == "length"
    assert made.usage.completion_tokens == 5 and made.usage.prompt_tokens == len("user: My cat is Tom.\nassistant: ")
    assert made.usage.total_tokens == made.usage.prompt_tokens + 5
    assert made.usage.prompt_tokens_details.cached_tokens == 0 and made.system_fingerprint.startswith("ltm-")
    assert ask(me, max_tokens=2).usage.completion_tokens == 2 and ask(me).usage.completion_tokens == 8


def test_a_stream_is_the_same_answer(me):
    whole = ask(me, **UNWRITTEN).choices[0]
    chunks = list(ask(me, **UNWRITTEN, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 8
    assert len({c.id for c in chunks}) == 1 and chunks[-1].model_extra["memory"]["user"] == "me"
    without = list(ask(me, **UNWRITTEN, stream=True))
    assert all(c.usage is None for c in without) and "memory" in without[-1].model_extra
    assert without[-1].choices[0].finish_reason == "length"


def test_seeds_and_several_choices(me):
    options = {"temperature": 1.0, "n": 3, "extra_body": {"memory": {"read": False, "write": False}}}
    one, two, other = (ask(me, seed=seed, **options) for seed in (5, 5, 6))
    texts = [choice.message.content for choice in one.choices]
    assert [choice.index for choice in one.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert texts == [choice.message.content for choice in two.choices]
    assert texts[1:] == [choice.message.content for choice in other.choices][:2]  # each choice has the next seed
    assert one.usage.completion_tokens == 24
    streamed = ["", "", ""]
    for chunk in ask(me, seed=5, stream=True, **options):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def later_character(text):
    """One that is not its first."""
    return next(character for character in text if character != text[0])


def test_an_answer_ends_before_a_stop_string(me):
    options = {**UNWRITTEN, "max_tokens": 40}
    whole = ask(me, **options).choices[0].message.content
    stop = later_character(whole)
    cut = whole[: whole.index(stop)]
    made = ask(me, stop=["not there", stop], **options).choices[0]
    assert (made.message.content, made.finish_reason) == (cut, "stop")
    chunks = list(ask(me, stop=stop, stream=True, **options))
    assert (
        "".join(c.choices[0].delta.content or "" for c in chunks) == cut
        and chunks[-1].choices[0].finish_reason == "stop"
    )


def test_the_stream_helper_of_the_client(me):
    stop = later_character(ask(me, **UNWRITTEN).choices[0].message.content)
    with me.chat.completions.stream(model="tiny-llama", messages=HI, stop=stop) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert stream.get_final_completion().choices[0].message.content == text != ""


def test_memory_is_told_and_grows_by_what_is_new(me, running, keys):
    first = ask(me).model_extra["memory"]
    assert first["user"] == "me" and first["used"] == [] and len(first["written"]) == 2
    second = ask(me, [{"role": "user", "content": "Who is Tom, my cat?"}]).model_extra["memory"]
    assert first["written"][0] in [one["id"] for one in second["used"]] and second["tokens_remembered"] > 0
    assert {"id", "score", "source", "t"} == set(second["used"][0]) and len(second["written"]) == 2
    assert ask(me).model_extra["memory"]["written"] == []  # asked again: nothing twice
    assert len(ask(me, [*HI, {"role": "assistant", "content": "Yes."}, HI[0]]).model_extra["memory"]["written"]) == 3
    assert ask(me, extra_body={"memory": {"read": False}}).model_extra["memory"]["used"] == []


def test_memory_can_be_left_out(me):
    for options in ({"model": "tiny-llama:off"}, {"extra_body": {"memory": {"read": False, "write": False}}}):
        assert ask(me, **options).model_extra["memory"] == {
            "user": None,
            "used": [],
            "written": [],
            "tokens_remembered": None,
            "ms": 0.0,
        }
    assert ask(me, model="tiny-llama:longmem").model_extra["memory"]["tokens_remembered"] == 0


def test_recalled_text_does_not_come_back_as_something_said(me, running):
    ask(me)
    ask(me, [{"role": "user", "content": "Who is Tom, my cat?"}])
    (memory,) = [entry.memory for entry in running.server.users._entries.values()]
    turns = memory.log.before(datetime(9999, 1, 1, tzinfo=timezone.utc))
    assert [turn.text for turn in turns if turn.role == "user"] == ["My cat is Tom.", "Who is Tom, my cat?"]


def test_a_gateway_speaks_for_many_who_never_see_each_other(running, keys):
    gateway = running.client(keys.create("gateway")[1])
    secrets = {user: f"The secret of {user} is {user * 3}." for user in ("ann", "bob", "eve")}
    for user, secret in secrets.items():
        ask(gateway, [{"role": "user", "content": secret}], user=user)
    written = {}
    for user in secrets:
        made = ask(gateway, [{"role": "user", "content": "What is the secret?"}], extra_headers={"X-LTM-User": user})
        memory = made.model_extra["memory"]
        written[user] = {one["id"] for one in memory["used"]}
        assert memory["user"] == user and written[user]
    assert not written["ann"] & written["bob"] and not written["bob"] & written["eve"]
    nobody = ask(gateway, [{"role": "user", "content": "What is the secret?"}]).model_extra["memory"]
    assert nobody["user"] is None and nobody["used"] == nobody["written"] == []
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(running.client(keys.create("mine", user="me")[1]), user="ann")
    assert caught.value.body["param"] == "user" and caught.value.code == "memory_forbidden"


def test_scopes(running, keys):
    reader = running.client(keys.create("reader", user="me", scopes=["chat", "memory:read"])[1])
    ask(running.client(keys.create("mine", user="me")[1]))
    memory = ask(reader, [{"role": "user", "content": "Who is Tom, my cat?"}]).model_extra["memory"]
    assert memory["used"] and memory["written"] == []
    with pytest.raises(openai.PermissionDeniedError):
        ask(reader, extra_body={"memory": {"write": True}})
    with pytest.raises(openai.PermissionDeniedError):
        ask(running.client(keys.create("none", user="me", scopes=["memory:read"])[1]))


def test_errors_by_class(me, running, keys):
    for error, call in {
        openai.AuthenticationError: lambda: ask(running.client("ltm_wrong")),
        openai.NotFoundError: lambda: ask(me, model="zork"),
        openai.BadRequestError: lambda: ask(me, tools=[{"type": "custom", "custom": {"name": "f"}}]),
    }.items():
        with pytest.raises(error) as caught:
            call()
        assert caught.value.request_id.startswith("req_") and caught.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.BadRequestError, match="question is empty"):
        ask(me, [{"role": "user", "content": " "}])
    with pytest.raises(openai.BadRequestError, match="question is empty"):
        list(ask(me, [{"role": "user", "content": " "}], stream=True))


def test_fields_without_effect_are_named_in_a_header(me):
    raw = me.chat.completions.with_raw_response.create(
        model="tiny-llama", messages=HI, store=True, extra_body={"zork": 1, "memory": {"colour": "red"}}
    )
    assert raw.headers["x-ltm-ignored"] == "store, zork, memory.colour"
    streamed = me.chat.completions.with_raw_response.create(model="tiny-llama", messages=HI, stream=True, store=True)
    assert streamed.headers["x-ltm-ignored"] == "store" and streamed.headers["x-request-id"].startswith("req_")


def test_models(me):
    assert [model.id for model in me.models.list()] == ["tiny-llama", "tiny-llama:longmem", "tiny-llama:off"]
    assert me.models.retrieve("tiny-llama:off").owned_by == "ltm"
    with pytest.raises(openai.NotFoundError):
        me.models.retrieve("zork")


def test_a_restart_between_two_turns(serve, longmem, keys, running):
    key = keys.create("mine", user="me")[1]
    first = ask(running.client(key)).choices[0].message.content
    running.stop()
    history = [*HI, {"role": "assistant", "content": first}, {"role": "user", "content": "Who is Tom?"}]
    again = serve(longmem).client(key)
    memory = ask(again, history).model_extra["memory"]
    assert len(memory["written"]) == 2 and memory["tokens_remembered"] > 0
    assert not memory["used"]  # what it would find stands in the conversation
    assert ask(again, history[-1:]).model_extra["memory"]["used"]


def send(running, path, body=None, key=None, method=None):
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    request = Request(running.url + path, data=body, headers=headers, method=method)
    try:
        with urlopen(request, timeout=30) as response:
            return response.status, response.read(), response.headers
    except HTTPError as error:
        return error.code, error.read(), error.headers


def test_routes_without_a_model(running, keys):
    ordinary, admin = keys.create("a", user="me")[1], keys.create("b", user="me", scopes=["admin"])[1]
    assert json.loads(send(running, "/health")[1]) == {"status": "ok"}
    assert json.loads(send(running, "/ready")[1])["status"] == "ready"
    assert "version" in json.loads(send(running, "/version")[1])
    assert [send(running, "/metrics", key=key)[0] for key in (None, ordinary, admin)] == [401, 403, 200]
    for path, method, status in [
        ("/zork", "GET", 404),
        ("/v1/chat/completions", "GET", 405),
        ("/v1/models", "PUT", 405),
    ]:
        code, body, headers = send(running, path, key=ordinary, method=method)
        assert code == status and json.loads(body)["error"]["message"] and headers["x-request-id"]


def test_metrics_count_and_name_nobody(running, keys):
    key = keys.create("a", scopes=["chat", "admin", "memory:read", "memory:write"])[1]
    ask(running.client(key), user="ann-of-cleves")
    text = send(running, "/metrics", key=key)[1].decode()
    assert 'ltm_requests_total{code="200",route="/v1/chat/completions"} 1.0' in text
    assert 'ltm_tokens_total{kind="output"} 8.0' in text and "ltm_turns_written_total 2.0" in text
    assert "ann-of-cleves" not in text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"nan", b"[" * 100_000, b'{"messages": 1e999}'])
def test_bodies_that_are_no_request(running, keys, body):
    code, said, _ = send(running, "/v1/chat/completions", body, keys.create("a", user="me")[1])
    assert code == 400 and json.loads(said)["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_large(serve, longmem, keys):
    running = serve(longmem, max_body=5000)
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 6000}]}).encode()
    code, said, _ = send(running, "/v1/chat/completions", body, keys.create("a", user="me")[1])
    assert code == 413 and json.loads(said)["error"]["code"] == "body_too_large"


def raw(running, *pieces):
    """What comes back for bytes that are sent as they are."""
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return connection.recv(4000)


def test_bodies_that_do_not_come_or_do_not_end(serve, longmem, keys, monkeypatch):
    running = serve(longmem, max_body=5000)
    monkeypatch.setattr(access, "BODY_SECONDS", 0.2)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + keys.create("a", user="me")[1]
    assert raw(running, f"{head}\r\nContent-Length: 50\r\n\r\n{{".encode()).startswith(b"HTTP/1.1 408")
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    endless = raw(running, f"{head}\r\nTransfer-Encoding: chunked\r\n\r\n".encode(), chunk, chunk)
    assert endless.startswith(b"HTTP/1.1 413")
