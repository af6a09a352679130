"""A text file is read into a memory piece by piece, found, listed, deleted; over a restart, and nobody else's."""

from __future__ import annotations

import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from conftest import wait_for
from test_memory_routes import ITEMS, add, call, ids
from test_users import ANN, holding

from ltm.serve import document_routes as document_routes_module
from ltm.serve.document_log import DocumentLog, pieces_of
from ltm.serve.keys import utc_now
from ltm.serve.memory_items import MemoryItems
from ltm.serve.users import Users

DOCUMENTS = "/memory/documents"
LONG = "\n\n".join(f"Chapter {n}. " + f"The quixotic glyph number {n} of Wymondham is green. " * 45 for n in range(9))


@pytest.fixture
def running(serve, text_model):
    return serve(text_model)


def upload(running, key, name, data, **headers):
    """(status, what came): JSON, or the data of events."""
    sent = {"authorization": f"Bearer {key}", "content-type": "text/plain", **headers}
    try:
        with urlopen(Request(f"{running.url}/v1{DOCUMENTS}?name={name}", data, sent), timeout=60) as answered:
            body = answered.read().decode()
            if not answered.headers["content-type"].startswith("text/event-stream"):
                return answered.status, json.loads(body)
            return answered.status, [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
    except HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def listed(client):
    return call(client, "get", DOCUMENTS)["data"]


def test_pieces_are_the_text_and_end_where_something_does():
    pieces = list(pieces_of(LONG))
    assert all(0 < len(piece) <= 4000 for piece in pieces) and len(pieces) > 5
    assert "".join("".join(pieces).split()) == "".join(LONG.split()) and all(piece[-1] == "." for piece in pieces)
    assert list(pieces_of("x" * 9000)) == ["x" * 4000, "x" * 4000, "x" * 1000] and list(pieces_of(" \n")) == []


@pytest.mark.parametrize("kind", ["longmem", "text_model"])
def test_a_document_from_its_upload_to_its_deletion(kind, request, serve, key, tmp_path):
    running = serve(request.getfixturevalue(kind))
    me = running.client(key)
    said = add(me, "My cat is Tom.")["id"]
    status, events = upload(running, key, "glyphs.txt", LONG.encode(), accept="text/event-stream")
    assert status == 200 and [one["done"] for one in events] == sorted(one["done"] for one in events)
    total = events[0]["total"]
    assert events[-1]["done"] == total == len(list(pieces_of(LONG))) and events[-1]["num_unread"] == 0
    (document,) = listed(me)
    assert (document["name"], document["num_pieces"], document["num_unread"]) == ("glyphs.txt", total, 0)
    (found, *_) = call(me, "post", "/memory/search", {"query": "glyph number 7", "k": 3})["data"]
    assert found["source"] == "document" and "number 7" in found["text"]
    assert len(call(me, "get", f"{ITEMS}/{found['id']}")["turns"]) > 1  # what stands around it
    assert ids(call(me, "get", ITEMS)) == [said]  # no item of a page
    assert upload(running, key, "glyphs.txt", LONG.encode())[1]["id"] == document["id"] and len(listed(me)) == 1
    receipt = call(me, "delete", f"{DOCUMENTS}/{document['id']}")
    assert (receipt["id"], receipt["items"]) == (document["id"], total)
    assert receipt["probe"] == {"documents": 0, "found": 0, "kept": 0, "files": 0}
    assert listed(me) == [] and not holding(b"quixotic", tmp_path)
    assert upload(running, key, "glyphs.txt", LONG.encode())[1]["num_pieces"] == total  # who uploads it anew means it
    wait_for(lambda: listed(me)[0]["num_unread"] == 0)


def test_others_take_turns_while_one_is_read_and_a_restart_goes_on(serve, text_model, keys, key, monkeypatch):
    running = serve(text_model)
    monkeypatch.setattr(document_routes_module.Readers, "begin", lambda *_: None)
    assert upload(running, key, "glyphs.txt", LONG.encode())[1]["num_unread"] > 5
    unread = [listed(running.client(key))[0]["num_unread"] for _ in range(3)]
    assert unread == [unread[0], unread[0] - 1, unread[0] - 2]  # a piece in each use
    running.stop()
    monkeypatch.undo()
    again = serve(text_model)
    me = again.client(key)
    assert listed(me)[0]["num_unread"] > 0
    wait_for(lambda: listed(me)[0]["num_unread"] == 0)
    assert call(me, "post", "/memory/search", {"query": "glyph number 8", "k": 1})["data"][0]["source"] == "document"


def test_nobody_sees_anothers_and_what_cannot_be_is_told(serve, text_model, keys, key):
    running = serve(text_model, max_upload=50_000)
    document = upload(running, key, "a.txt", b"The secret is quixotic.")[1]["id"]
    bobs = keys.create("bob", user="bob")[1]
    assert listed(running.client(bobs)) == []
    request = Request(
        f"{running.url}/v1{DOCUMENTS}/{document}", method="DELETE", headers={"authorization": f"Bearer {bobs}"}
    )
    with pytest.raises(HTTPError) as missing:
        urlopen(request)
    assert missing.value.code == 404
    reader = keys.create("reader", user="me", scopes=["memory:read"])[1]
    assert upload(running, reader, "a.txt", b"x")[0] == 403 and len(listed(running.client(reader))) == 1
    for name, data, status in (
        ("a.txt", b"\xff\xfe", 400),
        ("a.txt", b" \n", 400),
        ("a.txt", b"a\0b", 400),
        ("", b"Hello.", 400),
        ("a%0Ab", b"Hello.", 400),
        ("x" * 201, b"Hello.", 400),
        ("a.txt", b"x" * 50_001, 413),
    ):
        refused = upload(running, key, name, data)
        assert refused[0] == status and "\n" not in refused[1]["message"], (name, refused)
    assert len(listed(running.client(key))) == 1


def test_documents_go_along_in_an_archive_and_are_forgotten_with_everything(running, me, key, keys, tmp_path):
    upload(running, key, "a%20b.txt", b"The quixotic glyph is green.")
    request = Request(f"{running.url}/v1/memory/export", headers={"authorization": f"Bearer {key}"})
    data = urlopen(request).read()
    bobs = keys.create("bob", user="bob")[1]
    headers = {"authorization": f"Bearer {bobs}", "content-type": "application/zip"}
    assert json.loads(urlopen(Request(f"{running.url}/v1/memory/import", data, headers)).read())["turns"] == 1
    assert [one["name"] for one in listed(running.client(bobs))] == ["a b.txt"]
    call(me, "delete", "/memory", {"all": True, "confirm": "me"})
    assert listed(me) == [] and len(listed(running.client(bobs))) == 1
    kinds = [one["kind"] for one in call(me, "get", "/memory/events")["data"]]
    assert kinds == ["read", "deleted"]


def test_a_piece_that_is_refused_keeps_no_other_away(text_model, keys, tmp_path, monkeypatch):
    from ltm.errors import LtmError

    users = Users(tmp_path / "data", text_model, keys, budget=10**9)
    with users.using(ANN) as memory:
        keep = memory.session.keep

        def refuse(turns, name):
            if "number 0" in turns[0]["content"]:
                raise LtmError("zork")
            keep(turns, name)

        monkeypatch.setattr(memory.session, "keep", refuse)
        DocumentLog(memory.log, memory.place).add("a.txt", LONG, utc_now())
        while memory.num_unread:
            memory.take_in()
        assert memory.documents.all()[0].num_unread == 1
        assert "number 7" in MemoryItems(memory).search("glyph number 7")[0].text
    users.close()
