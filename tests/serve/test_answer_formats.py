"""Answers held to JSON and to a schema, by the official client, on a model whose words mean nothing."""

from __future__ import annotations

import json

import openai
import pytest
from jsonschema import validate
from pydantic import BaseModel

from ltm.serve.chat_request import parse_chat
from ltm.serve.errors import ApiError

HI = [{"role": "user", "content": "My cat is Tom."}]
APART = {"extra_body": {"memory": {"write": False}}}
CAT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "colour": {"enum": ["grey", "red", "größer"]},
        "is_old": {"type": "boolean"},
    },
    "required": ["name", "age", "colour", "is_old"],
    "additionalProperties": False,
}
SCHEMAS = [
    CAT,
    {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "minItems": 2, "maxItems": 3},
    {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/cat"}], "$defs": {"cat": CAT}},
    {"type": "string", "pattern": "^[a-c]{3}$"},
    {"const": {"a": [1, 2.5, None]}},
]


@pytest.fixture
def me(serve, model, keys):
    return serve(model).client(keys.create("mine", user="me")[1])


@pytest.fixture
def other(serve, longmem, keys):
    """Of one kind of memory, for what does not hang on it."""
    return serve(longmem).client(keys.create("mine", user="me")[1])


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "cat", "strict": True, "schema": schema}}


def ask(client, **options):
    return client.chat.completions.create(**{"model": "tiny-llama", "messages": HI, "max_tokens": 200, **options})


def check(model, given):
    """As the route does before it answers."""
    model.grammars.check(parse_chat({"messages": HI, "response_format": given}).format)


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_answers_follow_their_schema(me, temperature):
    for schema in SCHEMAS:
        made = ask(me, response_format=schema_format(schema), temperature=temperature, seed=1, **APART).choices[0]
        validate(json.loads(made.message.content), schema)
        assert made.finish_reason == "stop"


@pytest.mark.slow
def test_each_choice_and_each_stream(other):
    options = {"response_format": schema_format(CAT), "temperature": 1, "seed": 3, **APART}
    whole = [choice.message.content for choice in ask(other, n=3, **options).choices]
    assert len(set(whole)) == 3
    for text in whole:
        validate(json.loads(text), CAT)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(other, stream=True, **options))
    assert streamed == whole[0]


def test_any_object(other):
    made = ask(other, response_format={"type": "json_object"}, max_tokens=300, logit_bias=None, **APART).choices[0]
    assert made.message.content.startswith("{")
    assert made.finish_reason == "length" or isinstance(json.loads(made.message.content), dict)


def test_what_max_tokens_cuts_is_the_beginning_of_one(other):
    whole = ask(other, response_format=schema_format(CAT), **APART).choices[0].message.content
    made = ask(other, response_format=schema_format(CAT), max_tokens=12, **APART).choices[0]
    assert made.finish_reason == "length" and whole.startswith(made.message.content) and len(made.message.content) == 12


@pytest.mark.slow
def test_the_parse_helper_of_the_client(other):
    class Cat(BaseModel):
        age: int
        is_old: bool

    made = other.chat.completions.parse(model="tiny-llama", messages=HI, response_format=Cat, max_tokens=100, **APART)
    assert isinstance(made.choices[0].message.parsed, Cat)


def test_responses(other):
    told = {"type": "json_schema", "name": "cat", "schema": CAT, "strict": True}
    made = other.responses.create(model="tiny-llama", input="My cat is Tom.", text={"format": told})
    assert made.status == "incomplete" and made.text.format.type == "json_schema"
    made = other.responses.create(
        model="tiny-llama", input="My cat is Tom.", text={"format": told}, max_output_tokens=200, stream=True
    )
    done = [event for event in made if event.type == "response.completed"]
    validate(json.loads(done[0].response.output_text), CAT)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "zork"}, "Invalid type"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
        ({"$ref": "http://127.0.0.1:9/x"}, "not present"),
        ({"enum": ["x" * 200_000]}, "100,000"),
        ([], "no JSON schema"),
    ],
)
def test_schemas_that_cannot_be_had(longmem, schema, said):
    with pytest.raises(ApiError, match=said) as caught:
        check(longmem, schema_format(schema))
    assert caught.value.status == 400 and caught.value.code == "invalid_json_schema"
    assert caught.value.param == "response_format.json_schema.schema"


def test_a_schema_that_is_nested_too_deeply(longmem):
    deep = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ApiError, match="recursion"):
        check(longmem, schema_format(deep))


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"type": "zork"}, "response_format.type"),
        ("json_object", "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
    ],
)
def test_formats_that_are_none(longmem, given, param):
    with pytest.raises(ApiError) as caught:
        check(longmem, given)
    assert caught.value.param == param


def test_what_is_refused_is_a_bad_request(other):
    with pytest.raises(openai.BadRequestError, match="Invalid type") as caught:
        ask(other, response_format=schema_format({"type": "zork"}))
    assert caught.value.code == "invalid_json_schema"
