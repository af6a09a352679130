"""How much a key and a user may ask for."""

from __future__ import annotations

import time

import openai
import pytest

from ltm.serve import quotas as quotas_module
from ltm.serve.errors import ApiError
from ltm.serve.quotas import Quotas
from ltm.serve.settings import ServeSettings

HI = [{"role": "user", "content": "My cat is Tom."}]


def ask(client, **options):
    given = {"model": "tiny-llama", "messages": HI, "max_tokens": 2, **options}
    return client.chat.completions.with_raw_response.create(**given)


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(quotas_module.time, "monotonic", lambda: now[0])
    return now


def refusal(call):
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value


def test_requests_come_back_with_time(clock):
    quotas = Quotas(ServeSettings(user_requests_per_minute=2, key_requests_per_minute=100))
    assert quotas.admit("1", "ann").headers["x-ratelimit-remaining-requests"] == "1"
    quotas.admit("1", "ann")
    error = refusal(lambda: quotas.admit("2", "ann"))
    assert error.status == 429 and error.headers["retry-after"] == "30" and error.code == "requests_per_minute"
    assert error.headers["x-ratelimit-limit-requests"] == "2"
    quotas.admit("1", "bob")
    clock[0] += 31
    quotas.admit("1", "ann")
    refusal(lambda: quotas.admit("1", "ann"))


def test_a_key_counts_whoever_it_speaks_for(clock):
    quotas = Quotas(ServeSettings(key_requests_per_minute=2))
    quotas.admit("1", "ann"), quotas.admit("1", None)
    assert "this key" in refusal(lambda: quotas.admit("1", "bob")).message
    quotas.admit("2", "bob")


def test_tokens_are_paid_afterwards(clock):
    quotas = Quotas(ServeSettings(user_tokens_per_minute=60))
    quotas.admit("1", "ann").pay(90)
    error = refusal(lambda: quotas.admit("1", "ann"))
    assert error.code == "tokens_per_minute" and error.headers["retry-after"] == "31"
    assert error.headers["x-ratelimit-remaining-tokens"] == "0" and error.headers["x-ratelimit-reset-tokens"] == "90s"
    clock[0] += 31
    quotas.admit("1", "ann")


def test_empty_places_are_forgotten(clock, monkeypatch):
    monkeypatch.setattr(quotas_module, "MOST_BUCKETS", 3)
    quotas = Quotas(ServeSettings(user_requests_per_minute=2))
    for user in "abcd":
        quotas.admit("1", user)
    clock[0] += 100
    quotas.admit("1", "e")
    assert len(quotas._buckets) == 1


def test_by_the_client(serve, longmem, keys):
    running = serve(longmem, user_requests_per_minute=2, user_tokens_per_minute=10_000)
    me, other = (running.client(keys.create(user, user=user)[1]) for user in ("ann", "bob"))
    told = ask(me).headers
    assert told["x-ratelimit-remaining-requests"] == "1" and told["x-ratelimit-limit-tokens"] == "10000"
    assert int(ask(me).headers["x-ratelimit-remaining-tokens"]) < 10_000
    with pytest.raises(openai.RateLimitError) as caught:
        ask(me)
    headers = caught.value.response.headers
    assert int(headers["retry-after"]) <= 30 and headers["x-should-retry"] == "true"
    assert caught.value.type == "rate_limit_error" and "the most" not in headers and ask(other).status_code == 200


def test_answers_at_once(serve, longmem, keys):
    running = serve(longmem, user_answers_at_once=1)
    me = running.client(keys.create("mine", user="me")[1])
    stream = me.chat.completions.create(model="tiny-llama", messages=HI, max_tokens=400, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError, match="at once of this user: 1, the most is 1"):
        ask(me)
    stream.close()
    end = time.monotonic() + 20
    while running.server.quotas._answering and time.monotonic() < end:
        time.sleep(0.02)
    assert ask(me).status_code == 200


@pytest.mark.parametrize("limit", [{"user_remembered_tokens": 5}, {"user_disk": "1kB"}])
def test_a_full_memory(serve, longmem, keys, limit):
    running = serve(longmem, **limit)
    me = running.client(keys.create("mine", user="me")[1])
    ask(me)
    ask(me, extra_body={"memory": {"write": False}})  # by now it is known how much there is
    with pytest.raises(openai.APIStatusError, match="the most is") as caught:
        ask(me)
    assert caught.value.status_code == 413 and caught.value.code == "memory_full"
    assert ask(me, extra_body={"memory": {"write": False}}).status_code == 200
