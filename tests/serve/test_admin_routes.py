"""/v1/admin over a socket: keys and users, for the scope admin alone, and never what anybody said."""

from __future__ import annotations

import json

import openai
import pytest

from ltm.serve.keys import USUAL

KEYS, USERS = "/admin/keys", "/admin/users"
ROUTES = [("get", KEYS, None), ("post", KEYS, {"name": "x", "user": "y"}), ("delete", f"{KEYS}/1", None)]
ROUTES += [("get", USERS, None), ("get", "/admin/server", None)]


@pytest.fixture
def running(serve, text_model):
    return serve(text_model)


@pytest.fixture
def admin(running, keys):
    return running.client(keys.create("boss", user="boss", scopes=[*USUAL, "admin"])[1])


def call(client, method, path, body=None, **options):
    send = {"get": client.get, "post": client.post, "delete": client.delete}[method]
    if body is not None:
        options["body"] = body
    return send(path, cast_to=dict, **options)


def test_a_key_from_its_making_to_its_end(admin, running, keys):
    made = call(admin, "post", KEYS, {"name": "laptop", "user": "ann", "expires": "90d", "colour": "red"})
    client = running.client(made["key"])
    assert made["object"] == "admin.key" and (made["user"], made["scopes"]) == ("ann", list(USUAL)) and made["expires"]
    assert client.models.list().data
    listed = call(admin, "get", KEYS)
    assert [one["name"] for one in listed["data"]] == ["boss", "laptop"] and made["key"] not in json.dumps(listed)
    gone = call(admin, "delete", f"{KEYS}/{made['id']}")
    assert gone["deleted"] and gone["name"] == "laptop"
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    for number in (made["id"], 10**30):
        with pytest.raises(openai.NotFoundError) as missing:
            call(admin, "delete", f"{KEYS}/{number}")
        assert missing.value.code == "key_not_found"
    gateway = call(admin, "post", KEYS, {"name": str(gone["id"]), "gateway": True, "scopes": ["chat"], "tenant": "far"})
    assert (gateway["user"], gateway["scopes"], gateway["tenant"]) == (None, ["chat", "gateway"], "far")


def test_keys_that_cannot_be(admin):
    wrong = [{}, [], {"name": "x"}, {"name": "x", "user": "a", "gateway": True}, {"name": " ", "user": "a"}]
    wrong += [{"name": "x", "user": "a", **more} for more in ({"expires": "soon"}, {"scopes": ["root"]}, {"user": " "})]
    for body in wrong:
        with pytest.raises(openai.BadRequestError):
            call(admin, "post", KEYS, body)
    assert len(call(admin, "get", KEYS)["data"]) == 1


@pytest.mark.parametrize("method, path, body", ROUTES)
def test_nobody_else(running, keys, method, path, body):
    mine = running.client(keys.create("mine", user="me")[1])
    gateway = running.client(keys.create("gate")[1], default_headers={"X-LTM-User": "boss"})
    for client in (mine, gateway):
        with pytest.raises(openai.PermissionDeniedError) as refused:
            call(client, method, path, body)
        assert refused.value.code == "insufficient_scope"
    with pytest.raises(openai.AuthenticationError):
        call(running.client("ltm_none"), method, path, body)
    assert len(keys.all()) == 2


def test_users_have_sizes_and_no_words(admin, running, keys):
    for user in ("ann", "bob", "cat"):
        client = running.client(keys.create(user, user=user)[1])
        client.post("/memory/items", cast_to=dict, body={"text": f"The secret of {user} is quixotic."})
    first = call(admin, "get", USERS, options={"params": {"limit": 2}})
    assert [one["user"] for one in first["data"]] == ["cat", "bob"] and first["has_more"]
    last = call(admin, "get", USERS, options={"params": {"limit": 2, "after": first["last_id"]}})
    assert [one["user"] for one in last["data"]] == ["ann"] and not last["has_more"]
    oldest = call(admin, "get", USERS, options={"params": {"order": "asc", "limit": 1}})
    assert oldest["data"] == last["data"]
    (ann,) = last["data"]
    place = running.server.users.directory / ann["id"]
    assert ann["nbytes"] == sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) > 10_000
    assert ann["items"] == 1
    assert (ann["tenant"], ann["namespace"]) == ("default", "default") and "quixotic" not in json.dumps(first)
    for query in ({"limit": "many"}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError):
            call(admin, "get", USERS, options={"params": query})
    assert call(admin, "get", USERS, options={"params": {"after": "nobody"}})["data"] == []


def test_the_server_tells_its_settings_without_its_key(serve, text_model, keys):
    secret = "ltm_" + "s" * 40
    running = serve(text_model, api_key=secret, retention="90d")
    told = call(running.client(keys.create("boss", user="boss", scopes=["admin"])[1]), "get", "/admin/server")
    assert told["settings"]["retention"] == "P90D" and told["settings"]["queue_size"] == 64
    assert "api_key" not in told["settings"] and secret not in json.dumps(told)
    assert told["waiting"] == 0 and told["disk_free_bytes"] > 0
