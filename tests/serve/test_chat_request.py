"""Bodies of requests: what counts, what is named as ignored, what is refused."""

from __future__ import annotations

import pytest

from ltm.serve.chat_request import parse_chat
from ltm.serve.errors import ApiError

HI = {"messages": [{"role": "user", "content": "Hi"}]}


def refused(data):
    with pytest.raises(ApiError) as caught:
        parse_chat(data)
    assert caught.value.status == 400
    return caught.value


def test_roles_and_parts():
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "x"},
        {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Note.", "recalled": True},
        {"role": "user", "content": "And?"},
    ]
    assert parse_chat({"messages": messages}).messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Note.", "recalled": True},
        {"role": "user", "content": "And?"},
    ]


def test_unknown_fields_are_named_and_can_be_no_header_of_their_own():
    data = {**HI, "store": True, "zork": {"deep": 1}, "x\r\nSet-Cookie: a": 1, "é" * 99: 1, "function_call": "auto"}
    ignored = parse_chat({**data, "memory": {"colour": 1, "k": 3}}).ignored
    assert ignored == ["store", "zork", "x??Set-Cookie??a", "?" * 64, "memory.colour", "function_call"]
    assert parse_chat({**HI, "user": "a", "n": 1, "stream_options": {"include_usage": True}}).ignored == []
    assert parse_chat({**HI, "": 1}).ignored == ["?"]
    assert len(parse_chat({**HI, **{f"f{n}": 1 for n in range(99)}}).ignored) == 20


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "custom"}]),
        ("functions", [{}]),
        ("modalities", ["text", "audio"]),
        ("memory", {"as_of": "2026-01-01"}),
        ("memory", {"trace": True}),
    ],
)
def test_what_is_not_done_is_said(field, value):
    error = refused({**HI, field: value})
    assert error.code == "unsupported_parameter" and error.param.startswith(field) and "not supported" in error.message


@pytest.mark.parametrize(
    "harmless",
    [{"tools": []}, {"tools": None}, {"logprobs": False}, {"response_format": {"type": "text"}}]
    + [{"presence_penalty": 0}, {"logit_bias": {}}, {"modalities": ["text"]}, {"stream": None}, {"n": None}],
)
def test_defaults_said_aloud_are_no_request_for_anything(harmless):
    parsed = parse_chat({**HI, **harmless})
    assert parsed.messages and parsed.ignored == []


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ([], None),
        ("hi", None),
        (None, None),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages.0.role"),
        ({**HI, "n": 5}, "n"),
        ({**HI, "temperature": 2.5}, "temperature"),
        ({**HI, "temperature": float("nan")}, "temperature"),
        ({**HI, "top_p": 0}, "top_p"),
        ({**HI, "max_tokens": 0}, "max_tokens"),
        ({**HI, "stop": list("abcde")}, "stop"),
        ({**HI, "seed": 2**63}, "seed"),
        ({**HI, "top_logprobs": 3}, "top_logprobs"),
        ({**HI, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({**HI, "presence_penalty": 2.5}, "presence_penalty"),
        ({**HI, "frequency_penalty": -3}, "frequency_penalty"),
        ({**HI, "logit_bias": {"cat": 1}}, "logit_bias"),
        ({**HI, "logit_bias": {"5": 101}}, "logit_bias"),
        ({**HI, "logit_bias": {"5": float("nan")}}, "logit_bias"),
        ({**HI, "memory": {"k": 0}}, "memory.k"),
        ({**HI, "memory": "on"}, "memory"),
    ],
)
def test_what_cannot_be_is_named(data, param):
    assert refused(data).param == param


def test_other_content_and_functions_of_old_in_the_history():
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    assert refused({"messages": [image]}).code == "unsupported_content"
    called = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    assert refused({"messages": [called]}).param == "messages.0.function_call"
    assert refused({"messages": [{"role": "function", "content": "1"}]}).param == "messages.0.role"
