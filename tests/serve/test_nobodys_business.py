"""Many people at one server at once, each with a secret: nothing of one is ever seen by another."""

from __future__ import annotations

import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from random import Random

import openai
import pytest

SECRET = re.compile(r"zq\d{4}x")


def secret_of(number):
    return f"zq{number:04d}x"


class Person:
    """One of them: everything that the server ever sent them."""

    def __init__(self, client, number):
        self.number, self.headers = number, {"X-LTM-User": f"person {number}"}
        self.client, self.got, self.ids, self.used = client, [], [], []

    def say(self, text, **options):
        messages = [{"role": "user", "content": text}]
        made = self.client.chat.completions.create(
            model="tiny-llama", messages=messages, max_tokens=4, extra_headers=self.headers, **options
        )
        chunks = [chunk.model_dump() for chunk in made] if options.get("stream") else [made.model_dump()]
        self.got.append(json.dumps(chunks))
        memory = next(one["memory"] for one in chunks if one.get("memory"))
        self.ids += memory["written"]
        self.used += [one["id"] for one in memory["used"]]

    def call(self, method, path, **body):
        body = {"body": body} if body else {}
        made = getattr(self.client, method)(path, cast_to=object, options={"headers": self.headers}, **body)
        self.got.append(json.dumps(made))
        return made

    def live(self, step):
        if step == 0:
            self.say(f"My secret word is {secret_of(self.number)}.")
        elif step == 1:
            self.say("What is my secret word?", stream=self.number % 2 == 0)
        elif step == 2:
            found = self.call("post", "/memory/search", query="secret word")["data"]
            assert [secret_of(self.number) in one["text"] for one in found] == [True]
        else:
            made = self.client.responses.create(
                model="tiny-llama", input="My secret word?", max_output_tokens=4, extra_headers=self.headers
            )
            self.got.append(made.model_dump_json())
            self.call("get", "/memory/items")
            self.call("get", "/memory/events")


@pytest.mark.parametrize("num_people", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_everybody_sees_their_own_alone(serve, longmem, keys, caplog, num_people):
    caplog.set_level(logging.DEBUG, "ltm")
    running = serve(longmem, memory_budget=2_000_000, queue_size=200)
    client = running.client(keys.create("gateway")[1])
    everybody = [Person(client, number) for number in range(num_people)]
    for step in range(4):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(methodcaller("live", step), Random(step).sample(everybody, num_people)))
    for person in everybody:
        seen = set(SECRET.findall("".join(person.got)))
        assert seen == {secret_of(person.number)}
        assert person.used and set(person.used) <= set(person.ids)
    assert running.server.users.num_closed > num_people  # a memory was opened again and again
    other = everybody[1]
    for path in (f"/memory/items/{everybody[0].ids[0]}", f"/memory/items/{everybody[0].ids[0]}/history"):
        with pytest.raises(openai.NotFoundError):
            other.call("get", path)
    _, key = running.server.keys.create("admin", user="admin", scopes=["admin"])
    metrics = running.client(key).get("/../metrics", cast_to=str)
    assert "ltm_requests_total" in metrics
    for text in (metrics, caplog.text):
        assert not SECRET.search(text) and "person " not in text
