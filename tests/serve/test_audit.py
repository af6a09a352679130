"""What happened to items is listed without texts and cannot be changed; a version is redacted and its row stays."""

from __future__ import annotations

from contextlib import closing

import openai
import pytest
from test_memory_routes import ITEMS, add, call
from test_users import holding

from ltm.errors import LtmError
from ltm.serve.identity import Caller
from ltm.serve.turn_log import TurnDatabase, TurnLog

EVENTS = "/memory/events"


@pytest.fixture
def running(serve, longmem):
    return serve(longmem)


def kinds(client, query=""):
    return [(one["kind"], one["item"]) for one in call(client, "get", f"{EVENTS}{query}")["data"]]


def test_everything_that_happens_is_noted_without_texts(me, running, keys, tmp_path):
    item = add(me, "Quixotic glyphs.")["id"]
    add(me, "Quixotic glyphs.")  # nothing happened
    made = me.chat.completions.create(model="tiny-llama", messages=[{"role": "user", "content": "My cat is Tom."}])
    said, answer = made.model_extra["memory"]["written"]
    call(me, "patch", f"{ITEMS}/{item}", {"text": "Quixotic glyphs of Norwich."})
    call(me, "delete", f"{ITEMS}/{item}")
    noted = [
        ("added", item),
        ("said", said),
        ("said", answer),
        ("corrected", item),
        ("deleted", item),
        ("deleted", item),
    ]
    assert kinds(me) == noted and not holding(b"Quixotic", tmp_path)
    listed = call(me, "get", EVENTS)
    assert [one["source"] for one in listed["data"]][:3] == ["user", "user", "assistant"]
    assert {"object", "id", "time", "kind", "item", "version", "source"} == set(listed["data"][0])
    assert kinds(me, f"?after={listed['data'][3]['id']}&limit=1") == noted[4:5]
    assert kinds(me, "?since=2999-01-01") == [] and kinds(me, f"?since={listed['data'][0]['time']}") == noted
    call(me, "delete", "/memory", {"all": True, "confirm": "me"})
    assert kinds(me)[6:] == [("deleted", said), ("deleted", answer)]  # that remains
    assert kinds(running.client(keys.create("other", user="bob")[1])) == []
    for wrong in ("?limit=0", "?limit=1001", "?after=x", "?since=soon"):
        with pytest.raises(openai.BadRequestError):
            kinds(me, wrong)
    with running.server.users.using(Caller("default", "me")) as memory:
        for statement in ("UPDATE audit SET kind = 'said'", "DELETE FROM audit"):
            with pytest.raises(LtmError, match="never"):
                memory.log.database.run(statement)


def test_a_log_from_before_notes_what_happens_from_now_on(tmp_path):
    with closing(TurnDatabase.open_or_make(tmp_path / "turns.sqlite3")) as database:
        database.run(
            "INSERT INTO turns (hash, parent, role, text, time, first) VALUES ('a', '', 'user', 'x', 't', 'a')"
        )
    for _ in range(2):
        with closing(TurnLog(tmp_path)) as log:
            assert log.num_turns == 1
    with closing(TurnLog(tmp_path)) as log:
        log.forget(log.all())
        assert log.database.run("SELECT kind, item FROM audit") == [("deleted", "a")]


def test_a_version_is_redacted_and_its_row_stays(me, tmp_path):
    made = me.conversations.create(items=[{"role": "user", "content": "My sister lives in Wymondham."}])
    (item,) = [one["id"] for one in call(me, "get", ITEMS)["data"]]
    call(me, "patch", f"{ITEMS}/{item}", {"text": "My sister lives in Norwich.", "reason": "she left Wymondham"})
    call(me, "patch", f"{ITEMS}/{item}", {"text": "My sister lives in Leeds."})
    history = call(me, "get", f"{ITEMS}/{item}/history")["data"]
    assert [one["redacted"] for one in history] == [False] * 3 and holding(b"Wymondham", tmp_path)
    for version in (history[0]["version"], history[1]["version"], history[0]["version"]):
        redacted = call(me, "post", f"{ITEMS}/{item}/history/{version}/redact")
        assert (redacted["text"], redacted["reason"], redacted["redacted"]) == ("", None, True)
    assert not holding(b"Wymondham", tmp_path) and not holding(b"Norwich", tmp_path)
    after = call(me, "get", f"{ITEMS}/{item}/history")["data"]
    assert [(one["version"], one["time"], one["replaced"]) for one in after] == [
        (one["version"], one["time"], one["replaced"]) for one in history
    ]
    assert [one["text"] for one in after] == ["", "", "My sister lives in Leeds."]
    assert call(me, "get", f"{ITEMS}/{item}")["text"] == "My sister lives in Leeds."
    assert me.conversations.items.list(made.id).data == []
    with pytest.raises(openai.BadRequestError, match="is in force"):
        call(me, "post", f"{ITEMS}/{item}/history/{history[2]['version']}/redact")
    for path in (f"{item}/history/ver_0", f"mem_0/history/{history[0]['version']}"):
        with pytest.raises(openai.NotFoundError):
            call(me, "post", f"{ITEMS}/{path}/redact")
    assert call(me, "delete", f"{ITEMS}/{item}")["probe"]["found"] == 0
