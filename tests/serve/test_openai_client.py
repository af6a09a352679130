"""What is left of the official Python client's cases: retries, timeouts, streams that are left, characters in pieces,
long histories, errors by class, several threads and the asynchronous client.

Answers, streams, choices, stops and seeds are in test_chat_completions.py, formats in test_answer_formats.py, functions
in test_tools.py.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.request import Request, urlopen

import openai
import pytest

from ltm.serve.users import Users

HI = [{"role": "user", "content": "My cat is Tom."}]
APART = {"extra_body": {"memory": {"read": False, "write": False}}}


@pytest.fixture
def running(serve, longmem):
    return serve(longmem)


def ask(client, messages=HI, **options):
    given = {"model": "tiny-llama", "messages": messages, "max_tokens": 6, "temperature": 1, **options}
    return client.chat.completions.create(**given)


def turns_of(running):
    return [entry.memory.log.num_turns for entry in running.server.users._entries.values()]


class Losing:
    """A way to a server on which the first answers are lost: the request arrives, and the connection breaks."""

    def __init__(self, url, num_lost):
        self.lost, self.answers = num_lost, []
        way = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                kept = {
                    name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
                }
                with urlopen(Request(url + self.path, body, kept, method="POST"), timeout=60) as answered:
                    way.answers.append(answered.read())
                if len(way.answers) <= way.lost:
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("content-type", answered.headers["content-type"])
                self.send_header("content-length", str(len(way.answers[-1])))
                self.end_headers()
                self.wfile.write(way.answers[-1])

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_client_that_lost_the_answer_tries_again_and_nothing_is_done_twice(running, key, stream):
    way = Losing(running.url, 2)
    client = openai.OpenAI(base_url=way.url, api_key=key, max_retries=2)
    made = ask(client, stream=stream)
    text = "".join(c.choices[0].delta.content or "" for c in made) if stream else made.choices[0].message.content
    assert text and len(way.answers) == 3 and len(set(way.answers)) == 1  # at temperature 1, without a seed
    assert turns_of(running) == [2]
    way.server.shutdown()


def test_an_idempotency_key_of_the_clients_own(running, key):
    client = running.client(key)
    one, two = (ask(client, extra_headers={"Idempotency-Key": "mine"}) for _ in range(2))
    assert one == two
    with pytest.raises(openai.ConflictError) as caught:
        ask(client.with_options(max_retries=2), seed=5, extra_headers={"Idempotency-Key": "mine"})
    assert caught.value.code == "key_reused" and turns_of(running) == [2]


def test_a_client_that_waits_no_longer(running, key):
    client = running.client(key)
    with pytest.raises(openai.APITimeoutError):
        ask(client, max_tokens=2000, timeout=0.3)
    assert ask(client).choices[0].message.content  # decoding has stopped, and the next one is answered


@pytest.mark.slow
def test_a_stream_that_is_left(running, key):
    client = running.client(key)
    with ask(client, max_tokens=2000, stream=True) as stream:
        next(iter(stream))
    assert len(ask(client, HI).model_extra["memory"]["written"]) <= 2
    assert ask(client).choices[0].message.content


def test_characters_that_are_several_tokens_come_whole(running, key):
    client = running.client(key)
    for text in ("größer 🐈‍⬛ 猫です", "\U0001f469\u200d\U0001f467 naïve"):
        schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": text}}}
        options = {"response_format": schema, "max_tokens": 200, **APART}
        pieces = [c.choices[0].delta.content or "" for c in ask(client, stream=True, **options)]
        assert json.loads("".join(pieces)) == text and "\ufffd" not in "".join(pieces)
        assert (
            json.loads(ask(client, [{"role": "user", "content": text}], **options).choices[0].message.content) == text
        )


@pytest.mark.slow
def test_a_history_of_64k_tokens(running, key):
    client = running.client(key)
    said = [f"Number {n} is the number of house {n}, and in house {n} lives cat {n}. " * 10 for n in range(100)]
    history = [{"role": ("user", "assistant")[n % 2], "content": text[:656]} for n, text in enumerate(said)]
    made = ask(client, [*history, {"role": "user", "content": "Which cat?"}], max_tokens=2)
    assert made.usage.prompt_tokens > 64_000 and len(made.model_extra["memory"]["written"]) == 102
    again = ask(client, [*history, {"role": "user", "content": "Which house?"}], max_tokens=2)
    assert len(again.model_extra["memory"]["written"]) == 2


def test_errors_by_class(serve, longmem, keys, monkeypatch):
    running = serve(longmem, user_requests_per_minute=6, max_body=2000)
    client = running.client(keys.create("mine", user="me")[1])

    def failing(*_, **__):
        raise RuntimeError("a secret of the server")

    calls = {
        openai.BadRequestError: lambda: ask(client, []),
        openai.AuthenticationError: lambda: ask(running.client("ltm_none")),
        openai.PermissionDeniedError: lambda: ask(client, user="ann"),
        openai.NotFoundError: lambda: client.models.retrieve("zork"),
        openai.APIStatusError: lambda: ask(client, [{"role": "user", "content": "x" * 3000}]),
        openai.InternalServerError: lambda: ask(client),
        openai.RateLimitError: lambda: [ask(client) for _ in range(9)],
    }
    for kind, call in calls.items():
        with monkeypatch.context() as patched:
            if kind is openai.InternalServerError:
                patched.setattr(Users, "using", failing)
            with pytest.raises(kind) as caught:
                call()
        assert caught.value.message and "secret" not in str(caught.value) and caught.value.request_id.startswith("req_")
        assert caught.value.response.headers["x-should-retry"] in ("true", "false")


@pytest.mark.slow
def test_many_threads_share_a_client(running, key):
    client = running.client(key)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: ask(client, seed=n % 2, **APART).choices[0].message.content, range(12)))
    assert len(set(made[::2])) == len(set(made[1::2])) == 1


def test_the_asynchronous_client(running, key):
    async def all_of() -> tuple[list, list]:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) as client:
            whole = await asyncio.gather(*[ask(client, seed=1, **APART) for _ in range(3)])
            stream = await ask(client, seed=1, stream=True, **APART)
            return [one.choices[0].message.content for one in whole], [chunk async for chunk in stream]

    whole, chunks = asyncio.run(all_of())
    assert len(set(whole)) == 1 and "".join(c.choices[0].delta.content or "" for c in chunks) == whole[0]


def test_raw_and_streamed_answers(running, key):
    client = running.client(key)
    raw = client.chat.completions.with_raw_response.create(model="tiny-llama", messages=HI, max_tokens=2, **APART)
    assert raw.headers["content-type"] == "application/json" and raw.parse().usage.completion_tokens == 2
    with client.chat.completions.with_streaming_response.create(
        model="tiny-llama", messages=HI, max_tokens=2, stream=True, **APART
    ) as answered:
        lines = list(answered.iter_lines())
    assert "data: [DONE]" in lines and answered.headers["cache-control"].startswith("no")
