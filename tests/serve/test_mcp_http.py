"""MCP over HTTP in both eras, with the keys, scopes and users of every other route."""

from __future__ import annotations

import asyncio
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import httpx2
import pytest
from conftest import wait_for
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from test_mcp_server import ERAS, call

from ltm.serve.identity import Caller
from ltm.serve.served_model import ServedModel


@pytest.fixture
def running(serve, text_model):
    return serve(text_model)


def talk(running, key, conversation, mode="auto", path="/mcp", **headers):
    """Run a conversation(client) as whoever has the key."""

    async def run():
        sent = {"authorization": f"Bearer {key}", **headers}
        async with httpx2.AsyncClient(headers=sent, timeout=30) as http:
            async with Client(streamable_http_client(f"{running.url}{path}", http_client=http), mode=mode) as client:
                return await conversation(client)

    return asyncio.run(run())


def ping(running, key=None, body=None, **headers):
    """(status, code of the error) of a bare request."""
    sent = {"content-type": "application/json", "accept": "application/json, text/event-stream", **headers}
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}} if body is None else body
    try:
        with urlopen(Request(f"{running.url}/mcp", json.dumps(body).encode(), sent)) as answered:
            return answered.status, None
    except HTTPError as error:
        return error.code, json.loads(error.read())["error"]["code"]


@pytest.mark.parametrize("mode", ERAS)
def test_a_memory_from_its_adding_to_its_deletion(running, keys, mode):
    key = keys.create("mine", user="me")[1]

    async def conversation(client):
        assert len((await client.list_tools()).tools) == 6
        item = await call(client, "add_memory", text="My cat is called Tom.")
        (found,) = await call(client, "search_memories", query="cat")
        assert found["id"] == item["id"]
        (read,) = (await client.read_resource("ltm://profile")).contents
        assert "called Tom" in read.text
        return item["id"]

    item = talk(running, key, conversation, mode)
    assert running.client(key).get(f"/memory/items/{item}", cast_to=dict)["text"] == "My cat is called Tom."

    async def delete(client):
        assert (await call(client, "delete_memory", id=item))["probe"]["found"] == 0
        assert (await client.read_resource("ltm://profile")).contents[0].text == ""

    talk(running, key, delete, mode)
    wait_for(lambda: b'route="/mcp"' in running.server.metrics.text())


@pytest.mark.parametrize("mode", ERAS)
def test_whose_memory_it_is_the_key_and_headers_say_for_each_request(running, keys, mode):
    mine, bobs = (keys.create(user, user=user)[1] for user in ("me", "bob"))
    gate = keys.create("gate", scopes=["memory:read", "memory:write"])[1]

    async def add(client):
        return (await call(client, "add_memory", text="My secret is quixotic."))["id"]

    async def look(client):
        return [one["text"] for one in (await call(client, "list_memories"))["items"]]

    item = talk(running, mine, add, mode)

    async def steal(client):
        for tool, more in (("read_source", {}), ("delete_memory", {}), ("update_memory", {"text": "Mine."})):
            result = await client.call_tool(tool, {"id": item, **more})
            assert result.is_error and "there is no item" in result.content[0].text
        assert await call(client, "search_memories", query="secret quixotic", user="me") == []
        assert "quixotic" not in (await client.read_resource("ltm://profile")).contents[0].text
        assert "quixotic" not in (await client.get_prompt("recall", {"about": "secret"})).messages[0].content.text

    talk(running, bobs, steal, mode)
    talk(running, gate, steal, mode, **{"x-ltm-user": "bob"})
    assert talk(running, gate, look, mode, **{"x-ltm-user": "me"}) == ["My secret is quixotic."]
    assert ping(running, gate) == (400, None) and ping(running, bobs, **{"x-ltm-user": "me"})[0] == 403
    assert ping(running)[0] == ping(running, "ltm_none")[0] == 401


@pytest.mark.parametrize("mode", ERAS)
def test_scopes(running, keys, mode):
    reader = keys.create("reader", user="me", scopes=["memory:read"])[1]
    writer = keys.create("writer", user="me", scopes=["memory:write"])[1]

    async def read(client):
        assert await call(client, "search_memories", query="cat") == []
        refused = await client.call_tool("add_memory", {"text": "My cat."})
        assert refused.is_error and "no scope memory:write" in refused.content[0].text

    async def write(client):
        await call(client, "add_memory", text="My cat.")
        refused = await client.call_tool("list_memories", {})
        assert refused.is_error and "no scope memory:read" in refused.content[0].text

    talk(running, reader, read, mode)
    talk(running, writer, write, mode)
    assert ping(running, keys.create("chat", user="me", scopes=["chat"])[1]) == (403, "insufficient_scope")


def test_limits_hold_for_tools(serve, text_model, keys, monkeypatch):
    running = serve(text_model, user_requests_per_minute=3)
    key = keys.create("mine", user="me")[1]
    assert [ping(running, key)[0] for _ in range(4)] == [200, 200, 200, 429]
    full = serve(text_model)
    monkeypatch.setattr(full.server.quotas, "most_bytes", 1)

    async def add(client):
        for tool, arguments in (("add_memory", {"text": "My cat is Tom."}), ("search_memories", {"query": "cat"})):
            result = await client.call_tool(tool, arguments)
            assert result.is_error == (tool == "add_memory")

    with full.server.users.using(Caller("default", "me")) as memory:
        memory.add("Tim is a cat.")
    talk(full, key, add)


def test_others_tools_are_at_paths_of_their_own(running, keys):
    key = keys.create("mine", user="me")[1]

    async def tools(client):
        return {tool.name for tool in (await client.list_tools()).tools}

    async def write(client):
        await client.call_tool("memory", {"command": "create", "path": "/memories/a", "file_text": "Tom likes fish."})

    async def graph(client):
        return (await call(client, "read_graph"))["entities"]

    assert talk(running, key, tools, path="/mcp/files") == {"memory"}
    talk(running, key, write, path="/mcp/files")
    assert len(talk(running, key, tools, "legacy", "/mcp/memory")) == 9
    (user,) = talk(running, key, graph, path="/mcp/memory")
    assert user["observations"] == ["/memories/a\nTom likes fish."]


def test_pages_of_other_sites_are_refused(running, keys):
    key, own = keys.create("mine", user="me")[1], running.url.removeprefix("http://")
    assert ping(running, key)[0] == 200
    assert ping(running, key, origin=running.url)[0] == 200
    for wrong in ({"origin": "http://evil.example"}, {"origin": "null"}, {"origin": f"http://{own}0"}):
        assert ping(running, key, **wrong) == (403, "wrong_origin")
    assert ping(running, key, host="evil.example") == (403, "wrong_host")
    assert ping(running, key, host="localhost:1", origin="http://localhost:1")[0] == 200


def test_what_is_no_message_is_refused_and_nothing_hangs(serve, text_model, keys):
    running = serve(text_model, max_body=2000)
    key = keys.create("mine", user="me")[1]
    for method in ("GET", "PUT", "DELETE"):  # of a GET the library would make a stream that never ends
        sent = {"authorization": f"Bearer {key}", "accept": "*/*"}
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{running.url}/mcp", headers=sent, method=method), timeout=10)
        assert refused.value.code == 405 and refused.value.headers["allow"] == "POST"
    for body in (b"", b"{", b"[]", b'{"jsonrpc": "2.0"}', b"x" * 3000):
        sent = {"content-type": "application/json", "accept": "application/json", "authorization": f"Bearer {key}"}
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{running.url}/mcp", body, sent), timeout=10)
        assert 400 <= refused.value.code < 500


def test_without_a_memory_there_is_none(serve, backbone, keys):
    bare = serve(ServedModel(backbone))
    assert ping(bare, keys.create("mine", user="me")[1]) == (404, "memory_not_found")
