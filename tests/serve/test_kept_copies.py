"""What is deleted of a memory is deleted from kept responses and conversations, and the receipt says what remains."""

from __future__ import annotations

from datetime import timedelta

import openai
import pytest
from test_memory_routes import ITEMS, add, call, ids
from test_users import holding

from ltm.serve import user_memory as user_memory_module
from ltm.serve.identity import Caller
from ltm.serve.keys import utc_now
from ltm.serve.response_store import Kept
from ltm.serve.turn_log import TurnLog

MODEL = "tiny-llama"


@pytest.fixture
def running(serve, longmem):
    return serve(longmem)


def respond(client, text, **options):
    return client.responses.create(model=MODEL, input=text, max_output_tokens=4, **options)


def test_a_turn_leaves_every_response_and_conversation_that_holds_it(me, tmp_path):
    made = me.conversations.create(items=[{"role": "user", "content": "Tom is a quixotic — cat."}])
    first = respond(me, "Glyphs of Wymondham.")
    history = [{"role": "user", "content": "Glyphs of Wymondham."}, {"role": "assistant", "content": first.output_text}]
    second = respond(me, [*history, {"role": "user", "content": "And then?"}])  # a client that sends it all again
    third = respond(me, "Hello?", previous_response_id=first.id)
    listed = call(me, "get", ITEMS)["data"]
    cat, glyphs = (next(one["id"] for one in listed if word in one["text"]) for word in ("quixotic", "Glyphs"))

    receipt = call(me, "delete", f"{ITEMS}/{cat}")
    assert receipt["copies"] == {"items": 1, "responses": 0, "conversations": 0}
    assert receipt["probe"] == {"documents": 0, "found": 0, "kept": 0, "files": 0}
    assert me.conversations.items.list(made.id).data == [] and me.conversations.retrieve(made.id).id == made.id

    receipt = call(me, "delete", f"{ITEMS}/{glyphs}")
    assert receipt["copies"]["items"] == 2 and receipt["probe"] == {"documents": 0, "found": 0, "kept": 0, "files": 0}
    assert not holding(b"Glyphs", tmp_path) and not holding(b"quixotic", tmp_path)
    assert me.responses.input_items.list(first.id).data == []
    assert [one.content[0].text for one in me.responses.input_items.list(second.id, order="asc").data] == [
        first.output_text,
        "And then?",
    ]
    assert me.responses.retrieve(third.id).output_text == third.output_text
    respond(me, "Once more.", previous_response_id=first.id)  # what is left can be gone on from
    assert not any("Glyphs" in one["text"] for one in call(me, "get", ITEMS)["data"])


def test_a_probe_tells_that_an_answer_repeats_what_was_deleted(me, running):
    made = me.conversations.create(
        items=[
            {"role": "user", "content": "Tom is a quixotic — cat."},
            {"role": "assistant", "content": "So: Tom is a quixotic — cat. Noted."},
        ]
    )
    said = call(me, "get", ITEMS)["data"][0]["id"]
    probe = call(me, "delete", f"{ITEMS}/{said}")["probe"]
    assert (probe["documents"], probe["found"], probe["kept"], probe["files"]) == (0, 0, 1, None)
    assert len(me.conversations.items.list(made.id).data) == 1


def test_erasing_everything_erases_responses_and_conversations(me, running, keys, tmp_path):
    made = me.conversations.create(items=[{"role": "user", "content": "Tom is a quixotic cat."}])
    answer = respond(me, "Glyphs of Wymondham.", instructions="Wymondham is a town.")
    respond(me, "Who?", conversation=made.id)
    other = running.client(keys.create("other", user="bob")[1])
    kept = respond(other, "Bob was here.")
    receipt = call(me, "delete", "/memory", {"all": True, "confirm": "me"})
    assert receipt["copies"] == {"items": 5, "responses": 2, "conversations": 1}
    assert receipt["probe"] == {"documents": 0, "found": 0, "kept": 0, "files": 0}
    for words in (b"quixotic", b"Glyphs", b"Wymondham"):
        assert not holding(words, tmp_path)
    for gone in (lambda: me.responses.retrieve(answer.id), lambda: me.conversations.retrieve(made.id)):
        with pytest.raises(openai.NotFoundError):
            gone()
    assert other.responses.retrieve(kept.id).output_text == kept.output_text
    assert add(me, "A new note.")["id"] in ids(call(me, "get", ITEMS))


def test_a_retention_reaches_copies_that_a_client_sent_again(me, running, tmp_path, monkeypatch):
    monkeypatch.setattr(user_memory_module, "utc_now", lambda: utc_now() - timedelta(days=100))
    respond(me, "Glyphs of Wymondham.", store=False)
    monkeypatch.undo()
    respond(me, [{"role": "user", "content": "Glyphs of Wymondham."}, {"role": "user", "content": "Hello?"}])
    assert holding(b"Glyphs", tmp_path)
    running.server.users.retention = timedelta(days=90)
    call(me, "get", ITEMS)
    assert not holding(b"Glyphs", tmp_path)


def test_what_is_kept_while_a_turn_is_deleted_goes_too(me, running, tmp_path, monkeypatch):
    made = me.conversations.create(items=[{"role": "user", "content": "Tom is a quixotic cat."}])
    (item,) = ids(call(me, "get", ITEMS))
    forget, copies = TurnLog.forget, []
    with running.server.users.responses(Caller("default", "me")) as store:
        copies += store.history_of_conversation(made.id).items

    def slowly(log, turns):
        with running.server.users.responses(Caller("default", "me")) as store:
            store.add_items(made.id, [Kept({**copies[0].item, "id": "msg_late"}, copies[0].after)])
        forget(log, turns)

    monkeypatch.setattr(TurnLog, "forget", slowly)
    assert call(me, "delete", f"{ITEMS}/{item}")["copies"]["items"] == 2
    assert me.conversations.items.list(made.id).data == [] and not holding(b"quixotic", tmp_path)


def test_a_kill_after_the_copies_went_leaves_the_item_to_be_deleted_again(me, monkeypatch):
    made = me.conversations.create(items=[{"role": "user", "content": "Tom is a quixotic cat."}])
    (item,) = ids(call(me, "get", ITEMS))
    monkeypatch.setattr(TurnLog, "forget", lambda *_: 1 / 0)
    with pytest.raises(openai.InternalServerError):
        call(me, "delete", f"{ITEMS}/{item}")
    monkeypatch.undo()
    assert me.conversations.items.list(made.id).data == [] and ids(call(me, "get", ITEMS)) == [item]
    assert call(me, "delete", f"{ITEMS}/{item}")["versions"] == 1
