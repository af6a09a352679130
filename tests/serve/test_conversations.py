"""/v1/conversations by the official client: kept over restarts, deleted with all that was learnt from them."""

from __future__ import annotations

import openai
import pytest
from test_responses import UNREAD, ask, logged, num_prompt_tokens, on_disk

from ltm.serve.identity import Caller
from ltm.serve.served_model import ServedModel


@pytest.fixture
def running(serve, longmem):
    return serve(longmem)


def texts(client, name, **options):
    return [item.content[0].text for item in client.conversations.items.list(name, **options)]


def num_remembered(running):
    with running.server.users.using(Caller("default", "me")) as memory:
        return len(memory.session.documents)


def test_a_conversation_over_restarts(serve, longmem, running, key):
    def again():
        nonlocal running
        running.stop()
        running = serve(longmem)
        return running.client(key)

    me = running.client(key)
    made = me.conversations.create(metadata={"topic": "cats"}, items=[{"role": "system", "content": "Be kind."}])
    assert made.object == "conversation" and made.id.startswith("conv_") and made.metadata == {"topic": "cats"}
    first = ask(again(), conversation=made.id)
    assert first.conversation.id == made.id and first.status == "incomplete" and first.output_text
    second = ask(again(), "Who is Tom?", conversation={"id": made.id}, **UNREAD)
    me = again()
    whole = ["My cat is Tom.", first.output_text, "Who is Tom?"]
    turns = [("system", "Be kind."), *zip(("user", "assistant", "user"), whole, strict=True)]
    assert second.usage.input_tokens == num_prompt_tokens(me, *turns)
    assert texts(me, made.id, order="asc") == ["Be kind.", *whole, second.output_text]
    assert texts(me, made.id, limit=2) == [*reversed([*whole, second.output_text]), "Be kind."]  # in three pages
    assert logged(running) == [*whole, second.output_text]
    assert me.conversations.update(made.id, metadata={"a": "b"}).metadata == {"a": "b"}
    assert again().conversations.retrieve(made.id).metadata == {"a": "b"}


def test_items_that_are_added_are_remembered_once(me, running):
    made = me.conversations.create(items=[{"role": "user", "content": "My cat is Tom."}])
    added = me.conversations.items.create(made.id, items=[{"role": "user", "content": "He is grey."}])
    assert added.data[0].content[0].text == "He is grey." and added.first_id == added.last_id == added.data[0].id
    assert me.conversations.items.retrieve(added.first_id, conversation_id=made.id) == added.data[0]
    answer = ask(me, "Who?", conversation=made.id)
    assert logged(running) == ["My cat is Tom.", "He is grey.", "Who?", answer.output_text]
    hidden = [{"role": "user", "content": "A passing thought."}]
    me.conversations.items.create(made.id, items=hidden, extra_body={"memory": {"write": False}})
    assert "A passing thought." not in logged(running)


def test_a_conversation_that_is_deleted_takes_along_what_was_learnt(me, running):
    other = ask(me, "My dog is Rex the Small.")
    made = me.conversations.create(items=[{"role": "user", "content": "My cat is Tom the Great."}])
    answer = ask(me, "Tom the Great is grey.", conversation=made.id)
    ask(me, "Who is Tom?", conversation=made.id)  # what only asks is logged and not taken in
    assert num_remembered(running) == 3 and on_disk(running, "Tom the Great")
    deleted = me.conversations.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "conversation.deleted", True)
    assert num_remembered(running) == 1 and logged(running)[0] == "My dog is Rex the Small."
    assert on_disk(running, "Tom the Great") == [] and on_disk(running, "Rex the Small")
    for call in (
        lambda: me.conversations.retrieve(made.id),
        lambda: me.conversations.delete(made.id),
        lambda: me.responses.retrieve(answer.id),
        lambda: ask(me, conversation=made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    assert me.responses.retrieve(other.id) == other


def test_an_item_that_is_deleted_is_forgotten_and_the_rest_goes_on(me, running):
    made = me.conversations.create(items=[{"role": "user", "content": "Tom the Great is grey."}])
    answer = ask(me, "My dog is Rex.", conversation=made.id)
    first = me.conversations.items.list(made.id, order="asc").data[0]
    assert me.conversations.items.delete(first.id, conversation_id=made.id).id == made.id
    assert on_disk(running, "Tom the Great") == [] and logged(running) == ["My dog is Rex.", answer.output_text]
    last = ask(me, "Who?", conversation=made.id, **UNREAD)
    assert last.usage.input_tokens == num_prompt_tokens(me, "My dog is Rex.", answer.output_text, "Who?")
    assert logged(running) == ["My dog is Rex.", answer.output_text, "Who?", last.output_text]  # nothing twice
    with pytest.raises(openai.NotFoundError):
        me.conversations.items.retrieve(first.id, conversation_id=made.id)


def test_deleted_while_an_answer_is_made_nothing_of_it_stays(me, running, monkeypatch):
    made = me.conversations.create()
    choice = running.server.engine._choice

    def deleted_meanwhile(*arguments):
        with running.server.users.responses(Caller("default", "me")) as store:
            store.delete_conversation(made.id)
        return choice(*arguments)

    monkeypatch.setattr(running.server.engine, "_choice", deleted_meanwhile)
    with pytest.raises(openai.NotFoundError):
        ask(me, "Tom the Great is grey.", conversation=made.id)
    assert logged(running) == [] and on_disk(running, "Tom the Great") == []


def test_nobody_has_conversations_and_others_are_not_found(me, running, keys):
    made = me.conversations.create(items=[{"role": "user", "content": "The secret is 42."}])
    item = me.conversations.items.list(made.id).data[0].id
    gateway = running.client(keys.create("gateway")[1])
    with pytest.raises(openai.BadRequestError, match="name a user"):
        gateway.conversations.create()
    for headers in ({}, {"X-LTM-User": "ann"}):
        options = {"extra_headers": headers}
        for call in (
            lambda o: gateway.conversations.retrieve(made.id, **o),
            lambda o: gateway.conversations.update(made.id, metadata={}, **o),
            lambda o: gateway.conversations.delete(made.id, **o),
            lambda o: gateway.conversations.items.list(made.id, **o),
            lambda o: gateway.conversations.items.create(made.id, items=[{"role": "user", "content": "a"}], **o),
            lambda o: gateway.conversations.items.retrieve(item, conversation_id=made.id, **o),
            lambda o: gateway.conversations.items.delete(item, conversation_id=made.id, **o),
            lambda o: ask(gateway, conversation=made.id, **o),
        ):
            with pytest.raises(openai.NotFoundError) as caught:
                call(options)
            assert caught.value.code == "conversation_not_found"
    assert texts(me, made.id) == ["The secret is 42."]


def test_what_cannot_be_is_named(me):
    made = me.conversations.create()
    for param, call in {
        "items": lambda: me.conversations.items.create(made.id, items=[{"role": "user", "content": "a"}] * 21),
        "limit": lambda: me.conversations.items.list(made.id, limit=101),
        "order": lambda: me.conversations.items.list(made.id, order="up"),
        "metadata": lambda: me.conversations.create(metadata={str(n): "a" for n in range(17)}),
        "items.0.role": lambda: me.conversations.create(items=[{"role": "zork", "content": "a"}]),
    }.items():
        with pytest.raises(openai.BadRequestError) as caught:
            call()
        assert caught.value.param == param
    with pytest.raises(openai.NotFoundError):
        me.conversations.items.list(made.id, after="msg_1")


def test_without_memory_conversations_are_kept_and_what_was_learnt_is_not_left_behind(serve, running, backbone, key):
    me = running.client(key)
    learnt = me.conversations.create(items=[{"role": "user", "content": "My cat is Tom."}]).id
    running.stop()
    without = serve(ServedModel(backbone)).client(key)
    made = without.conversations.create(items=[{"role": "user", "content": "My cat is Tom."}])
    answer = ask(without, "Who?", conversation=made.id)
    assert texts(without, made.id) == [answer.output_text, "Who?", "My cat is Tom."]
    assert without.conversations.delete(made.id).deleted
    with pytest.raises(openai.ConflictError) as caught:
        without.conversations.delete(learnt)
    assert caught.value.code == "memory_off" and texts(without, learnt) == ["My cat is Tom."]
