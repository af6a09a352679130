"""/v1/responses by the official client: answers that are kept, gone on from, listed and deleted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import openai
import pytest

from ltm.serve import users as users_module
from ltm.serve.identity import Caller
from ltm.serve.keys import utc_now
from ltm.serve.response_store import ResponseStore


@pytest.fixture
def running(serve, longmem):
    return serve(longmem)


def ask(client, said="My cat is Tom.", **options):
    return client.responses.create(**{"model": "tiny-llama", "input": said, **options})


UNREAD = {"extra_body": {"memory": {"read": False}}}
"""Nothing is recalled into the prompt."""


def num_prompt_tokens(client, *turns):
    """Of a chat completion that is sent these messages; user and assistant in turn, where no role is said."""
    turns = [(("user", "assistant")[n % 2], turn) if isinstance(turn, str) else turn for n, turn in enumerate(turns)]
    messages = [{"role": role, "content": text} for role, text in turns]
    made = client.chat.completions.create(
        model="tiny-llama", messages=messages, max_tokens=1, extra_body={"memory": {"read": False, "write": False}}
    )
    return made.usage.prompt_tokens


def logged(running, user="me"):
    """Texts of a user's turns, in the log."""
    with running.server.users.using(Caller("default", user)) as memory:
        return [row[0] for row in memory.log.database.run("SELECT text FROM turns WHERE NOT forgotten ORDER BY number")]


def on_disk(running, text):
    """Files of the server in which a text lies."""
    files = [path for path in running.server.settings.directory.rglob("*") if path.is_file()]
    return [path.name for path in files if text.encode() in path.read_bytes()]


def test_a_response(me):
    made = ask(me, max_output_tokens=5, metadata={"topic": "cats"}, instructions="Be kind.")
    assert made.object == "response" and made.id.startswith("resp_") and made.output_text
    assert made.status == "incomplete" and made.incomplete_details.reason == "max_output_tokens"
    assert made.usage.output_tokens == 5 and made.usage.input_tokens_details.cached_tokens == 0
    assert made.usage.input_tokens == len("system: Be kind.\nuser: My cat is Tom.\nassistant: ")
    assert made.metadata == {"topic": "cats"} and made.store is True and len(made.model_extra["memory"]["written"]) == 2
    assert me.responses.retrieve(made.id) == made
    items = me.responses.input_items.list(made.id).data
    assert [(item.role, item.content[0].text) for item in items] == [("user", "My cat is Tom.")]


def test_memories_that_were_used_are_cited(me):
    ask(me)
    made = ask(me, "Who is Tom, my cat?")
    used = [one["id"] for one in made.model_extra["memory"]["used"]]
    assert used and [one.file_id for one in made.output[0].content[0].annotations] == used
    events = list(ask(me, "Who is Tom, my cat of old?", stream=True))
    done = next(event for event in events if event.type == "response.output_item.done")
    assert done.item == events[-1].response.output[0] and done.item.content[0].annotations[0].type == "file_citation"
    assert me.responses.retrieve(made.id) == made


def test_the_same_answer_as_a_chat_completion(me):
    options = {"extra_body": {"memory": {"read": False, "write": False}}}
    chat = me.chat.completions.create(
        model="tiny-llama", messages=[{"role": "user", "content": "My cat is Tom."}], **options
    )
    assert ask(me, **options).output_text == chat.choices[0].message.content


def test_going_on_from_a_response_after_restarts(serve, longmem, running, key):
    said = ["My cat is Tom.", "He is grey.", "Who is Tom?"]
    previous, answers = None, []
    for text in said:
        made = ask(running.client(key), text, previous_response_id=previous, **UNREAD)
        assert made.previous_response_id == previous and len(made.model_extra["memory"]["written"]) == 2
        previous, answers = made.id, [*answers, made.output_text]
        running.stop()
        running = serve(longmem)
    whole = [text for pair in zip(said, answers, strict=True) for text in pair]
    assert made.usage.input_tokens == num_prompt_tokens(running.client(key), *whole[:-1])
    assert running.client(key).responses.retrieve(previous) == made
    assert logged(running) == whole


def test_instructions_hold_for_one_response(me, running):
    first = ask(me, instructions="Be brief.")
    again = ask(me, "Who?", previous_response_id=first.id, instructions="Be kind.", **UNREAD)
    turns = [("system", "Be kind."), ("user", "My cat is Tom."), ("assistant", first.output_text), ("user", "Who?")]
    assert again.usage.input_tokens == num_prompt_tokens(me, *turns)
    assert logged(running) == ["My cat is Tom.", first.output_text, "Who?", again.output_text]


def test_two_ways_on_from_one_response(me, running):
    first = ask(me)
    for text in ("He is grey.", "He is red."):
        assert len(ask(me, text, previous_response_id=first.id).model_extra["memory"]["written"]) == 2
    assert ask(me, "He is red.", previous_response_id=first.id).model_extra["memory"]["written"] == []
    assert [text for text in logged(running) if "is" in text] == ["My cat is Tom.", "He is grey.", "He is red."]


def test_what_is_deleted_is_gone_and_the_rest_goes_on(me, running):
    first = ask(me)
    second = ask(me, "He is greyish.", previous_response_id=first.id)
    third = ask(me, "He is old.", previous_response_id=second.id)
    assert me.responses.delete(second.id) is None
    with pytest.raises(openai.NotFoundError):
        me.responses.retrieve(second.id)
    with pytest.raises(openai.NotFoundError):
        ask(me, previous_response_id=second.id)
    assert "responses.sqlite3" not in on_disk(running, "greyish")
    last = ask(me, "Who?", previous_response_id=third.id, **UNREAD)
    assert last.usage.input_tokens == num_prompt_tokens(me, "He is old.", third.output_text, "Who?")
    assert len(last.model_extra["memory"]["written"]) == 2  # and nothing of before is taken for new


def test_items_as_input(me):
    parts = [{"type": "input_text", "text": "My cat "}, {"type": "input_text", "text": "is Tom."}]
    given = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": parts},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Yes.", "annotations": []}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "user", "content": "Who?"},
    ]
    made = ask(me, given)
    prompt = "system: Be kind.\nuser: My cat is Tom.\nassistant: Yes.\nuser: Who?\nassistant: "
    assert made.usage.input_tokens == len(prompt) and len(made.model_extra["memory"]["written"]) == 4
    texts = [item.content[0].text for item in me.responses.input_items.list(made.id, limit=3, order="asc")]
    assert texts == ["Be kind.", "My cat is Tom.", "Yes.", "Who?"]  # in two pages
    kept = [item.model_dump() for item in me.responses.input_items.list(made.id, order="asc")]
    again = ask(me, [*kept, *[item.model_dump() for item in made.output], {"role": "user", "content": "Who else?"}])
    assert len(again.model_extra["memory"]["written"]) == 2  # a client that brings the whole history writes it once


def test_what_is_not_kept(me, running):
    for options in ({"store": False}, {"extra_body": {"memory": {"write": False}}}):
        made = ask(me, "A passing thought.", **options)
        assert made.store is False
        with pytest.raises(openai.NotFoundError):
            me.responses.retrieve(made.id)
    assert "responses.sqlite3" not in on_disk(running, "passing thought")
    assert ask(me, store=True, extra_body={"memory": {"write": False}}).model_extra["memory"]["written"] == []


def test_nobody_is_kept_and_others_are_not_found(me, running, keys):
    mine = ask(me, "The secret is 42.")
    gateway = running.client(keys.create("gateway")[1])
    assert ask(gateway).store is False
    with pytest.raises(openai.BadRequestError, match="name a user"):
        ask(gateway, store=True)
    for_ann = {"extra_headers": {"X-LTM-User": "ann"}}
    assert ask(gateway, **for_ann).store is True
    for options in ({}, for_ann):
        for call in (
            lambda options: gateway.responses.retrieve(mine.id, **options),
            lambda options: gateway.responses.delete(mine.id, **options),
            lambda options: gateway.responses.input_items.list(mine.id, **options),
            lambda options: ask(gateway, previous_response_id=mine.id, **options),
        ):
            with pytest.raises(openai.NotFoundError) as caught:
                call(options)
            assert caught.value.code == "response_not_found"
    for_me = {"extra_headers": {"X-LTM-User": "me"}}
    assert gateway.responses.retrieve(mine.id, **for_me) == mine  # it is that user's


def test_scopes(me, running, keys):
    made = ask(me)
    asker = running.client(keys.create("asker", user="me", scopes=["chat"])[1])
    assert ask(asker).store is False
    for call in (
        lambda: ask(asker, store=True),
        lambda: ask(asker, previous_response_id=made.id),
        lambda: asker.responses.retrieve(made.id),
        lambda: asker.responses.delete(made.id),
    ):
        with pytest.raises(openai.PermissionDeniedError):
            call()


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"text": {"format": {"type": "zork"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "zork"}}}}, "text.format.schema"),
        ({"background": True}, "background"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"input": [{"type": "function_call_output", "output": "b"}]}, "input.0.tool_call_id"),
        ({"input": [{"type": "web_search_call"}]}, "input.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"input": [{"role": "assistant", "content": "Yes."}]}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input.str"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation"),
        ({"store": False, "conversation": "conv_1"}, "store"),
    ],
)
def test_what_cannot_be_is_named(me, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(me, **options)
    assert caught.value.param == param


def test_what_has_no_effect_is_named(me):
    raw = me.responses.with_raw_response.create(
        model="tiny-llama", input="Hi.", reasoning={"effort": "low"}, include=["reasoning.encrypted_content"]
    )
    assert raw.headers["x-ltm-ignored"] == "reasoning"


def test_retention_forgets_responses_too(serve, longmem, keys, monkeypatch):
    running = serve(longmem, retention="12h")
    me = running.client(keys.create("mine", user="me")[1])
    made = ask(me, "My cat is Tom the Great.")
    assert me.responses.retrieve(made.id) == made and on_disk(running, "Tom the Great")
    monkeypatch.setattr(users_module, "utc_now", lambda: utc_now() + timedelta(hours=13))
    with pytest.raises(openai.NotFoundError):
        me.responses.retrieve(made.id)
    assert "responses.sqlite3" not in on_disk(running, "Tom the Great")


# streams

EVENTS = ["created", "in_progress", "output_item.added", "content_part.added"]
LAST = ["output_text.done", "content_part.done", "output_item.done", "incomplete"]


def test_a_stream_is_the_same_response_in_numbered_events(me):
    whole = ask(me, store=False, extra_body={"memory": {"write": False}})
    events = list(ask(me, stream=True, extra_body={"memory": {"write": False}}, store=True))
    names = [event.type.removeprefix("response.") for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert names == [*EVENTS, *["output_text.delta"] * len(deltas), *LAST] and deltas
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(deltas) == events[-4].text == whole.output_text
    last = events[-1].response
    assert {event.item_id for event in events[3:-2]} == {last.output[0].id} and last.usage == whole.usage
    assert me.responses.retrieve(last.id) == last and last.id == events[0].response.id


def test_the_stream_helper_of_the_client(me, running, monkeypatch):
    made = running.server.engine._choice

    def ended(*arguments):
        """tiny-llama never ends by itself."""
        answer, choice = made(*arguments)
        return answer, replace(choice, reason="stop")

    monkeypatch.setattr(running.server.engine, "_choice", ended)
    with me.responses.stream(model="tiny-llama", input="My cat is Tom.") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.status == "completed" and final.output_text == text != ""
    assert me.responses.retrieve(final.id).output_text == text
    assert [item.role for item in me.responses.input_items.list(final.id)] == ["user"]


def test_going_on_from_a_stream(me):
    first = list(ask(me, stream=True))[-1].response
    second = list(ask(me, "Who?", stream=True, previous_response_id=first.id, **UNREAD))[-1].response
    assert second.usage.input_tokens == num_prompt_tokens(me, "My cat is Tom.", first.output_text, "Who?")


def test_what_goes_wrong_in_a_stream_is_its_last_event_and_nothing_is_kept(me, running, monkeypatch):
    monkeypatch.setattr(ResponseStore, "add", lambda *_: 1 / 0)
    events = list(ask(me, "A passing thought.", stream=True))
    last = events[-1]
    assert last.type == "response.failed" and last.response.error.code == "server_error" and last.response.output == []
    with pytest.raises(openai.NotFoundError):
        me.responses.retrieve(last.response.id)
    with pytest.raises(openai.BadRequestError, match="question is empty"):  # with its status, as nothing was sent yet
        list(ask(me, " ", stream=True))
