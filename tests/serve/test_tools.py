"""Functions that a model may call: told, called, answered; by the official client, whole and as streams."""

from __future__ import annotations

import json

import openai
import pytest
from jsonschema import validate

from ltm.serve.chat_request import parse_chat
from ltm.serve.engine import ChatReply, Choice, Piece
from ltm.serve.errors import ApiError
from ltm.serve.response_request import parse_response
from ltm.serve.response_wire import ResponseWire
from ltm.serve.tools import CallReader, ToolCall, prompt_messages, read_calls

HI = [{"role": "user", "content": "Is it cold in Oslo?"}]
APART = {"extra_body": {"memory": {"write": False}}}
WHERE = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": WHERE}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
CALLED = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


@pytest.fixture
def running(serve, longmem):
    return serve(longmem)


def ask(client, messages=HI, **options):
    given = {"model": "tiny-llama", "messages": messages, "max_tokens": 200, "tools": TOOLS, **APART, **options}
    return client.chat.completions.create(**given)


def check(call):
    assert call.type == "function" and call.id.startswith("call_")
    arguments = json.loads(call.function.arguments)
    validate(arguments, {"weather": WHERE, "clock": {"maxProperties": 0}}[call.function.name])


def test_a_function_that_must_be_called(me):
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        made = ask(me, tool_choice=choice, temperature=1, seed=2).choices[0]
        assert made.message.content is None and made.message.tool_calls
        assert made.finish_reason == "tool_calls" or len(made.message.tool_calls) > 1  # of which the last is cut
        for call in made.message.tool_calls[: -1 if made.finish_reason == "length" else None]:
            check(call)
    assert [call.function.name for call in made.message.tool_calls] == ["weather"]


@pytest.mark.slow
def test_one_call_alone(me):
    made = ask(me, tool_choice="required", parallel_tool_calls=False, n=2, temperature=1).choices
    assert [len(choice.message.tool_calls) for choice in made] == [1, 1]
    assert len({choice.message.tool_calls[0].id for choice in made}) == 2


def test_a_stream_of_a_call(me):
    options = {"tool_choice": {"type": "function", "function": {"name": "weather"}}}
    whole = ask(me, **options).choices[0].message.tool_calls[0]
    chunks = [chunk.choices[0] for chunk in ask(me, stream=True, **options)]
    first, *pieces = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert (first.index, first.type, first.function.name, first.function.arguments) == (0, "function", "weather", "")
    assert first.id.startswith("call_") and all(piece.id is None and piece.function.name is None for piece in pieces)
    assert len(pieces) > 3 and "".join(piece.function.arguments for piece in pieces) == whole.function.arguments
    assert chunks[0].delta.role == "assistant" and not any(chunk.delta.content for chunk in chunks)
    assert chunks[-1].finish_reason == "tool_calls"


@pytest.mark.slow
def test_the_stream_helper_puts_calls_together(me):
    given = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200, **APART}
    with me.chat.completions.stream(model="tiny-llama", messages=HI, **given) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion().choices[0].message.tool_calls
    assert [event.arguments for event in done] == [call.function.arguments for call in final] != []


@pytest.mark.slow
def test_a_function_that_may_be_called_or_not(me):
    free = ask(me, max_tokens=20).choices[0]
    assert free.message.content and not free.message.tool_calls and free.finish_reason != "tool_calls"
    streamed = [chunk.choices[0].delta for chunk in ask(me, max_tokens=20, stream=True)]
    assert "".join(delta.content or "" for delta in streamed) == free.message.content
    none = ask(me, max_tokens=20, tool_choice="none")
    assert none.usage.prompt_tokens == ask(me, max_tokens=20, tools=openai.omit).usage.prompt_tokens
    assert none.usage.prompt_tokens < ask(me, max_tokens=20).usage.prompt_tokens


def test_what_max_tokens_cuts_is_a_call_that_has_begun(me):
    made = ask(me, tools=[WEATHER], tool_choice="required", max_tokens=52).choices[0]
    (call,) = made.message.tool_calls
    assert made.finish_reason == "length" and call.function.arguments
    with pytest.raises(ValueError, match=r".*"):
        json.loads(call.function.arguments)


def test_results_are_answered_and_not_remembered(me, running):
    messages = [*HI, {"role": "assistant", "content": None, "tool_calls": [CALLED]}]
    messages += [{"role": "tool", "tool_call_id": "call_1", "content": "Minus seven."}]
    first = ask(me, tool_choice="required", extra_body={})
    assert len(first.model_extra["memory"]["written"]) == 1  # the question: a call says nothing
    made = ask(me, messages, max_tokens=8, extra_body={})
    assert made.choices[0].message.content and len(made.model_extra["memory"]["written"]) == 1
    (memory,) = [entry.memory for entry in running.server.users._entries.values()]
    assert [turn.text for turn in memory.log.all()] == [HI[0]["content"], made.choices[0].message.content]


@pytest.mark.slow
def test_what_is_looked_for_is_the_question_and_not_the_result(me):
    ask(me, [{"role": "user", "content": "Oslo is where I live, and Oslo is cold."}], tools=openai.omit, extra_body={})
    messages = [
        *HI,
        {"role": "assistant", "tool_calls": [CALLED]},
        {"role": "tool", "tool_call_id": "1", "content": "-7"},
    ]
    assert ask(me, messages, max_tokens=4, extra_body={}).model_extra["memory"]["used"]


# responses

FLAT = [{"type": "function", "name": "weather", "parameters": WHERE, "strict": True}]


def respond(client, said="Is it cold in Oslo?", **options):
    given = {"model": "tiny-llama", "input": said, "tools": FLAT, "max_output_tokens": 200, **options}
    return client.responses.create(**given)


@pytest.mark.slow
def test_a_response_with_a_call_and_what_goes_on_from_its_result(me):
    made = respond(me, tool_choice="required", parallel_tool_calls=False)
    (item,) = made.output
    assert item.type == "function_call" and item.id.startswith("fc_") and made.status == "completed"
    validate(json.loads(item.arguments), WHERE)
    assert me.responses.retrieve(made.id) == made and made.parallel_tool_calls is False
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "Minus seven."}
    again = respond(me, [result], previous_response_id=made.id, tools=openai.omit, max_output_tokens=5)
    history = [
        *HI,
        {
            "role": "assistant",
            "tool_calls": [{"id": "x", "function": {"name": "weather", "arguments": item.arguments}}],
        },
        {"role": "tool", "tool_call_id": "x", "content": "Minus seven."},
    ]
    chat = ask(me, history, max_tokens=1, tools=openai.omit, extra_body={"memory": {"read": False, "write": False}})
    apart = respond(
        me,
        [*HI, item.model_dump(), result],
        tools=openai.omit,
        max_output_tokens=1,
        extra_body={"memory": {"read": False, "write": False}},
    )
    assert chat.usage.prompt_tokens == apart.usage.input_tokens
    assert again.output_text and [one.type for one in me.responses.input_items.list(again.id)] == [
        "function_call_output"
    ]


@pytest.mark.slow
def test_a_stream_of_a_response_with_calls(me):
    given = {"tools": FLAT, "tool_choice": {"type": "function", "name": "weather"}, "max_output_tokens": 200}
    with me.responses.stream(model="tiny-llama", input="Is it cold?", **given) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if not event.type.endswith(".delta")]
    each = ["response.output_item.added", "response.function_call_arguments.done", "response.output_item.done"]
    assert kinds == ["response.created", "response.in_progress", *each, "response.completed"]
    text = "".join(one.delta for one in events if one.type.endswith(".delta") and one.output_index == 0)
    assert text == final.output[0].arguments and {one.type for one in final.output} == {"function_call"}


# without a model


def test_events_of_text_and_two_calls():
    wire = ResponseWire(parse_response({"input": "Hi", "tools": FLAT}), "tiny-llama", None, keeps=False)
    text = 'I look.<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><tool_call>{"name": "g", "arguments": {}}'
    events = [one for place in range(0, len(text), 7) for one in wire.pieces(Piece(0, text[place : place + 7]))]
    choice = Choice("I look.", "tool_calls", 9, (ToolCall("f", '{"a": 1}'), ToolCall("g", "{}")))
    whole = wire.whole(ChatReply([choice], 3, 0))
    events += [*wire.rest(), *wire.end(whole)]
    assert [one["event"] for one in events if not one["event"].endswith("delta")] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        *["response.output_item.done", "response.output_item.added", "response.function_call_arguments.done"] * 2,
        "response.output_item.done",
        "response.completed",
    ]
    shown = [json.loads(one["data"]) for one in events]
    assert [one["output_index"] for one in shown if one["type"] == "response.output_item.done"] == [0, 1, 2]
    message, *calls = whole["output"]
    assert message["content"][0]["text"] == "I look." and [call["arguments"] for call in calls] == ['{"a": 1}', "{}"]
    apart = ResponseWire(wire.parsed, "tiny-llama", None, keeps=False).whole(ChatReply([choice], 3, 0))
    names = ("type", "status", "name", "arguments")
    assert [[one.get(name) for name in names] for one in apart["output"]] == [
        [one.get(name) for name in names] for one in whole["output"]
    ]


def test_what_the_model_is_told():
    messages = parse_chat(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                *HI,
                {"role": "assistant", "content": "I look.", "tool_calls": [CALLED, CALLED]},
                {"role": "tool", "tool_call_id": "call_1", "content": "-7"},
                {"role": "tool", "tool_call_id": "b", "content": "-8"},
                {"role": "user", "content": "And?"},
            ],
            "tools": TOOLS,
        }
    )
    system, question, call, last = prompt_messages(messages.messages, messages.format.tools)
    assert system["content"].startswith("Be brief.\n\n# Tools") and '"name": "clock"' in system["content"]
    one = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
    assert call == {"role": "assistant", "content": f"I look.\n{one}{one}"} and question == HI[0]
    assert last["content"] == ("<tool_response>\n-7\n</tool_response>\n<tool_response>\n-8\n</tool_response>\nAnd?")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_calls_are_read_whatever_the_pieces(size):
    arguments = [r'{"a": "}}</tool_call> \" \\", "b": [{}, "]"]}', "{}"]
    calls = "".join(f'<tool_call>{{"name": "f", "arguments": {one}}}</tool_call>' for one in arguments)
    text, reader, parts = f"1 < 2 <tool_ is text.{calls}", CallReader(), []
    for start in range(0, len(text), size):
        parts += reader.push(text[start : start + size])
    parts += reader.finish()
    assert "".join(piece for kind, piece in parts if kind == "text") == "1 < 2 <tool_ is text."
    assert "".join(piece for kind, piece in parts if kind == "arguments") == "".join(arguments)
    assert [piece for kind, piece in parts if kind == "call"] == ["f", "f"]
    assert [call.arguments for call in read_calls(text)[1]] == arguments
    assert read_calls('<tool_call>{"name": "f", "arg') == ("", ())


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tools": "weather"}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [CLOCK, CLOCK]}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools.0.function.parameters",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "zork"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "zork"}, "tool_choice"),
        ({"messages": [*HI, {"role": "tool", "content": "1"}]}, "messages.1.tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls.0.name"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALLED]}]}, "messages.0.role"),
    ],
)
def test_what_cannot_be(options, param):
    with pytest.raises(ApiError) as caught:
        parse_chat({"messages": HI, **options})
    assert caught.value.status == 400 and caught.value.param == param


def test_schemas_of_arguments_that_cannot_be_had(me):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "zork"}}}}}
    with pytest.raises(openai.BadRequestError, match="Invalid type") as caught:
        ask(me, tools=[tool])
    assert caught.value.param == "tools.0.function.parameters"


def test_some_of_the_tools_are_allowed():
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    parsed = parse_chat(
        {"messages": HI, "tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}}
    )
    assert [tool.name for tool in parsed.format.tools.tools] == ["clock"] and parsed.format.tools.must
