"""The description of all routes, and the page that shows it."""

from __future__ import annotations

import json
import re
from urllib.request import urlopen

import openai
import pytest
from jsonschema import Draft202012Validator


@pytest.fixture
def running(serve, text_model):
    return serve(text_model)


def get(running, path):
    with urlopen(running.url + path, timeout=20) as answered:
        return answered.read().decode(), answered.headers


def test_every_route_is_told(running):
    told = json.loads(get(running, "/openapi.json")[0])
    paths = {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}
    for method, path in [
        ("POST", "/v1/chat/completions"),
        ("DELETE", "/v1/conversations/{id}/items/{item}"),
        ("PATCH", "/v1/memory/items/{id}"),
        ("GET", "/v1/models/{name}"),
        ("GET", "/health"),
    ]:
        assert (method, path) in paths
    names = [one["operationId"] for methods in told["paths"].values() for one in methods.values()]
    assert len(set(names)) == len(names)
    for path, methods in told["paths"].items():
        for one in methods.values():
            given = [parameter["name"] for parameter in one.get("parameters", ()) if parameter["in"] == "path"]
            assert given == re.findall(r"{(\w+)}", path)
    for schema in told["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    text = json.dumps(told)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in told["components"]["schemas"]
    fields = told["components"]["schemas"]["ChatBody"]["properties"]
    assert {"messages", "tools", "response_format", "memory", "logit_bias"} <= fields.keys()


def test_the_page_loads_nothing_from_elsewhere(running):
    page, headers = get(running, "/docs")
    assert "/v1/chat/completions" in page and "<script" not in page and "http" not in page
    assert "default-src 'self'" in headers["content-security-policy"]


def test_counting_and_cancelling(running, keys):
    me = running.client(keys.create("mine", user="me")[1])
    counted = me.responses.input_tokens.count(model="tiny-llama", input="My cat is Tom.", instructions="Be kind.")
    assert counted.input_tokens == len("system: Be kind.\nuser: My cat is Tom.\nassistant: ")
    made = me.responses.create(model="tiny-llama", input="My cat is Tom.", max_output_tokens=2)
    with pytest.raises(openai.BadRequestError, match="background"):
        me.responses.cancel(made.id)
    with pytest.raises(openai.NotFoundError):
        me.responses.cancel("resp_zork")
