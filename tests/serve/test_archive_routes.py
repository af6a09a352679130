"""Export and import over HTTP: a round trip, scopes, sizes, and nobody else's memory."""

from __future__ import annotations

import io
import json
import zipfile
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from test_memory_routes import ITEMS, add, call, ids

from ltm.serve.archive import read_archive


@pytest.fixture
def running(serve, text_model):
    return serve(text_model)


def send(running, key, method, path, data=None, **headers):
    """(status, body) of a bare request."""
    sent = {"authorization": f"Bearer {key}", "content-type": "application/zip", **headers}
    try:
        with urlopen(Request(f"{running.url}/v1/memory/{path}", data, sent, method=method), timeout=20) as answered:
            return answered.status, answered.read()
    except HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def test_what_is_exported_is_imported_by_another(running, keys, tmp_path):
    mine, bobs = (keys.create(user, user=user)[1] for user in ("me", "bob"))
    me, bob = running.client(mine), running.client(bobs)
    item = add(me, "My cat is called Tom.")
    made = me.conversations.create(items=[{"role": "user", "content": "My sister lives in Norwich."}])
    status, data = send(running, mine, "GET", "export")
    assert status == 200 and zipfile.is_zipfile(io.BytesIO(data))
    assert [row.text for row in read_archive(io.BytesIO(data), 10**6).rows.turns][0] == "My cat is called Tom."
    status, empty = send(running, bobs, "GET", "export")
    assert read_archive(io.BytesIO(empty), 10**6).rows.turns == []
    for turns in (2, 0):
        status, told = send(running, bobs, "POST", "import", data)
        told = json.loads(told)
        assert (status, told["object"], told["kind"], told["turns"]) == (200, "memory.imported", "ltm", turns)
    assert ids(call(bob, "get", ITEMS)) == ids(call(me, "get", ITEMS))
    assert call(bob, "post", "/memory/search", {"query": "cat", "k": 1})["data"][0]["time"] == item["time"]
    assert bob.conversations.items.list(made.id).data[0].content[0].text == "My sister lives in Norwich."
    call(bob, "delete", f"{ITEMS}/{item['id']}")
    assert json.loads(send(running, bobs, "POST", "import", data)[1])["deleted"] == 1
    assert json.loads(send(running, bobs, "POST", "import?restore=true", data)[1])["turns"] == 1
    assert item["id"] in ids(call(bob, "get", ITEMS)) and call(me, "get", f"{ITEMS}/{item['id']}")
    assert [path.name for path in (tmp_path / "data").iterdir() if path.name.startswith("tmp")] == []


def test_other_programs_exports(running, keys):
    key = keys.create("mine", user="me")[1]
    mem0 = [{"id": str(n), "memory": f"Fact {n}.", "user_id": "ab"[n], "created_at": "2024-07-26"} for n in range(2)]
    status, error = send(running, key, "POST", "import", json.dumps(mem0).encode())
    assert status == 400 and "2 users (a, b)" in error["message"]
    status, told = send(running, key, "POST", "import?only=b", json.dumps(mem0).encode())
    assert json.loads(told)["kind"] == "mem0"
    (item,) = call(running.client(key), "get", ITEMS)["data"]
    assert (item["text"], item["time"]) == ("Fact 1.", "2024-07-26T00:00:00Z")


def test_who_may_and_how_much(serve, text_model, keys):
    running = serve(text_model, max_upload=2000)
    reader = keys.create("reader", user="me", scopes=["memory:read"])[1]
    writer = keys.create("writer", user="me", scopes=["memory:write"])[1]
    gate = keys.create("gate", scopes=["memory:read", "memory:write"])[1]
    assert send(running, writer, "GET", "export")[0] == send(running, reader, "POST", "import", b"x")[0] == 403
    assert send(running, gate, "GET", "export")[0] == send(running, gate, "POST", "import", b"x")[0] == 400
    assert send(running, writer, "POST", "import", b"x", **{"x-ltm-user": "bob"})[0] == 403
    assert send(running, "ltm_none", "GET", "export")[0] == 401
    status, error = send(running, writer, "POST", "import", b"x" * 2001)
    assert (status, error["code"]) == (413, "body_too_large")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", b" " * 10**6)
    status, error = send(running, writer, "POST", "import", bomb.getvalue())
    assert status == 400 and "more than 20,000 bytes" in error["message"]
    for wrong in (b"", b"zork", b"PK\3\4"):
        status, error = send(running, writer, "POST", "import", wrong)
        assert status == 400 and "\n" not in error["message"]
