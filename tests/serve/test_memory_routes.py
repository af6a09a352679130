"""/v1/memory over a socket, through the official client's own transport: shapes, errors, and nobody else's memory."""

from __future__ import annotations

from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest
from conftest import wait_for

from ltm.serve.served_model import ServedModel

ITEMS = "/memory/items"


@pytest.fixture
def running(serve, longmem):
    return serve(longmem)


def call(client, method, path, body=None, **options):
    """The JSON that a route answers with; what fails raises as it does for any user of the client."""
    send = {"get": client.get, "post": client.post, "patch": client.patch, "delete": client.delete}[method]
    if body is not None:
        options["body"] = body
    return send(path, cast_to=dict, **options)


def add(client, text):
    return call(client, "post", ITEMS, {"text": text})


def ids(listed):
    return [one["id"] for one in listed["data"]]


def test_an_item_from_its_adding_to_its_deletion(me):
    item = add(me, "My cat is called Tom.")
    assert item["object"] == "memory.item" and item["id"].startswith("mem_") and item["source"] == "user"
    assert add(me, "My cat is called Tom.")["id"] == item["id"]  # a client that tries again
    (found,) = call(me, "post", "/memory/search", {"query": "cat", "k": 3})["data"]
    assert found == {**item, "score": found["score"]} and found["score"] > 0
    path = f"{ITEMS}/{item['id']}"
    assert call(me, "get", path) == {**item, "turns": [item]}
    new = call(me, "patch", path, {"text": "It is Tim.", "reason": "no", "content_sha256": item["content_sha256"]})
    assert new["id"] == item["id"] and new["text"] == "It is Tim."
    history = call(me, "get", f"{path}/history")
    assert [(one["text"], one["reason"]) for one in history["data"]] == [(item["text"], None), (new["text"], "no")]
    receipt = call(me, "delete", path)
    assert receipt["object"] == "memory.deleted" and (receipt["deleted"], receipt["id"]) == (True, item["id"])
    assert (receipt["items"], receipt["versions"]) == (1, 2) and receipt["probe"]["documents"] == 0
    for method, body in (("get", None), ("patch", {"text": "x"}), ("delete", None)):
        with pytest.raises(openai.NotFoundError) as missing:
            call(me, method, path, body)
        assert missing.value.code == "memory_not_found"


def test_what_was_said_in_a_chat_is_an_item(me):
    made = me.chat.completions.create(model="tiny-llama", messages=[{"role": "user", "content": "My cat is Tom."}])
    said, answer = made.model_extra["memory"]["written"]
    assert ids(call(me, "get", ITEMS)) == [said, answer]
    assert [one["source"] for one in call(me, "get", f"{ITEMS}/{said}")["turns"]] == ["user", "assistant"]
    call(me, "patch", f"{ITEMS}/{said}", {"text": "My cat is Tim."})
    asked = me.chat.completions.create(model="tiny-llama", messages=[{"role": "user", "content": "Who is my cat?"}])
    assert [one["id"] for one in asked.model_extra["memory"]["used"]] == [said]


def test_pages(me):
    made = [add(me, f"Note {n}.")["id"] for n in range(5)]
    first = call(me, "get", ITEMS, options={"params": {"limit": 3}})
    assert ids(first) == made[:3] and first["has_more"] and (first["first_id"], first["last_id"]) == (made[0], made[2])
    last = call(me, "get", ITEMS, options={"params": {"after": first["last_id"]}})
    assert ids(last) == made[3:] and not last["has_more"]
    assert ids(call(me, "get", ITEMS, options={"params": {"order": "desc", "limit": 1}})) == made[-1:]


def test_a_failed_precondition_is_told_at_once_and_not_tried_again(running, keys):
    client = running.client(keys.create("mine", user="me")[1]).with_options(max_retries=2)
    item = add(client, "My cat is Tom.")
    with pytest.raises(openai.ConflictError) as failed:
        call(client, "patch", f"{ITEMS}/{item['id']}", {"text": "Tim.", "content_sha256": "0" * 64})
    assert failed.value.code == "memory_conflict" and failed.value.response.headers["x-should-retry"] == "false"
    assert failed.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_erasing_everything_is_confirmed(me, running, keys):
    for n in range(3):
        add(me, f"Note {n} of mine.")
    other = running.client(keys.create("other", user="bob")[1])
    add(other, "Bob was here.")
    for body in ({"all": True}, {"all": False, "confirm": "me"}, {"all": True, "confirm": "bob"}, {}):
        with pytest.raises(openai.BadRequestError):
            call(me, "delete", "/memory", body)
    receipt = call(me, "delete", "/memory", {"all": True, "confirm": "me"})
    assert receipt["items"] == 3 and receipt["probe"]["found"] == 0
    assert ids(call(me, "get", ITEMS)) == [] and len(ids(call(other, "get", ITEMS))) == 1


def test_nobody_reads_or_writes_anothers(running, keys, me):
    item = add(me, "My secret is quixotic.")["id"]
    gateway = running.client(keys.create("gate", scopes=["memory:read", "memory:write"])[1])
    bob = running.client(keys.create("bobs", user="bob")[1])
    as_bob = gateway.with_options(default_headers={"X-LTM-User": "bob"})
    other_tenant = running.client(keys.create("far", user="me", tenant="far")[1])
    for client in (bob, as_bob, other_tenant):
        for method, path, body in EVERY_ITEM_ROUTE:
            with pytest.raises(openai.NotFoundError):
                call(client, method, path.format(item), body)
        assert ids(call(client, "get", ITEMS)) == ids(call(client, "post", "/memory/search", {"query": "secret"})) == []
    for method, path, body in EVERY_ROUTE:
        with pytest.raises(openai.BadRequestError, match="names no user"):
            call(gateway, method, path.format(item), body)
        with pytest.raises(openai.PermissionDeniedError) as refused:
            call(bob, method, path.format(item), body, options={"headers": {"X-LTM-User": "me"}})
        assert refused.value.code == "memory_forbidden"
        with pytest.raises(openai.AuthenticationError):
            call(running.client("ltm_none"), method, path.format(item), body)
    as_me = gateway.with_options(default_headers={"X-LTM-User": "me"})
    assert call(as_me, "get", f"{ITEMS}/{item}")["text"] == "My secret is quixotic."
    aside = call(me, "get", ITEMS, options={"params": {"namespace": "work"}})
    assert ids(aside) == [] and ids(call(me, "get", ITEMS)) == [item]


EVERY_ITEM_ROUTE = [
    ("get", f"{ITEMS}/{{}}", None),
    ("get", f"{ITEMS}/{{}}/history", None),
    ("patch", f"{ITEMS}/{{}}", {"text": "Mine now."}),
    ("delete", f"{ITEMS}/{{}}", None),
]
EVERY_ROUTE = [
    *EVERY_ITEM_ROUTE,
    ("get", ITEMS, None),
    ("post", ITEMS, {"text": "Hello."}),
    ("post", "/memory/search", {"query": "secret"}),
    ("delete", "/memory", {"all": True, "confirm": "me"}),
]


def test_scopes(running, keys, me):
    item = add(me, "My cat is Tom.")["id"]
    reader = running.client(keys.create("reader", user="me", scopes=["memory:read"])[1])
    writer = running.client(keys.create("writer", user="me", scopes=["memory:write"])[1])
    for method, path, body in EVERY_ROUTE:
        reads = method == "get" or path.endswith("search")
        with pytest.raises(openai.PermissionDeniedError) as refused:
            call(writer if reads else reader, method, path.format(item), body)
        assert refused.value.code == "insufficient_scope"
        if method != "delete":
            call(reader if reads else writer, method, path.format(item), body)


def test_what_cannot_be_is_400(me):
    wrong = [("post", ITEMS, {}), ("post", ITEMS, {"text": 3}), ("post", ITEMS, {"text": " "}), ("post", ITEMS, [])]
    wrong += [("post", "/memory/search", {"query": "x", **more}) for more in ({"k": 0}, {"since": "?"}, {"k": "many"})]
    for method, path, body in [*wrong, ("get", f"{ITEMS}?limit=many", None), ("get", f"{ITEMS}?order=up", None)]:
        with pytest.raises(openai.BadRequestError) as refused:
            call(me, method, path, body)
        assert refused.value.body["param"] or body == []
    for cursor in ("mem_0", "%FF", "..%2F", ""):
        with pytest.raises(openai.NotFoundError):
            call(me, "get", f"{ITEMS}?after={cursor}")
    for item in ("mem_", "mem_0", "%FF", "..%5C"):
        with pytest.raises(openai.NotFoundError):
            call(me, "get", f"{ITEMS}/{item}")


def test_halves_of_characters_and_unknown_fields(running, keys):
    headers = {"authorization": f"Bearer {keys.create('mine', user='me')[1]}"}
    for body, status in ((rb'{"text": "\ud800"}', 400), (rb'{"text": "a\u0000b"}', 400), (rb'{"text": "\ud83d', 400)):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{running.url}/v1{ITEMS}", body, headers))
        assert refused.value.code == status
    with urlopen(Request(f"{running.url}/v1{ITEMS}", b'{"text": "Hello.", "infer": false}', headers)) as made:
        assert made.headers["x-ltm-ignored"] == "infer"


def test_without_a_memory_there_is_none(serve, backbone, keys):
    client = serve(ServedModel(backbone)).client(keys.create("mine", user="me")[1])
    with pytest.raises(openai.NotFoundError, match="without a memory"):
        add(client, "My cat is Tom.")


def test_routes_are_counted_by_their_pattern(me, running):
    item = add(me, "My cat is Tom.")["id"]
    call(me, "get", f"{ITEMS}/{item}")
    wait_for(lambda: b'route="/v1/memory/items/{id}"' in running.server.metrics.text())
    assert item.encode() not in running.server.metrics.text()
