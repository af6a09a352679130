"""The MCP server through mcp's own client, in memory: tools, hints, results, failures, and nobody else's memory."""

from __future__ import annotations

import asyncio
import json

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from test_users import ANN, BOB

from ltm.serve.mcp_server import local_reach, mcp_server
from ltm.serve.memory_items import MemoryItems

ERAS = ["auto", "legacy"]


def talk(users, conversation, caller=ANN, make=mcp_server, **options):
    """Run a conversation(client) with the server that is made of a user's memory."""

    async def run():
        async with Client(make(local_reach(users, caller)), **options) as client:
            return await conversation(client)

    return asyncio.run(run())


async def call(client, tool, **arguments):
    """What a tool gives; its failure as an error."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    value = result.structured_content
    return value["result"] if set(value) == {"result"} else value


@pytest.mark.parametrize("mode", ERAS)
def test_six_tools_with_hints_and_none_names_a_user(users, mode):
    async def conversation(client):
        return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in talk(users, conversation, mode=mode)}
    assert sorted(tools) == sorted(
        ["search_memories", "add_memory", "update_memory", "delete_memory", "list_memories", "read_source"]
    )
    assert [name for name, tool in tools.items() if tool.annotations.destructive_hint] == ["delete_memory"]
    reading = {name for name, tool in tools.items() if tool.annotations.read_only_hint}
    assert reading == {"search_memories", "list_memories", "read_source"}
    for tool in tools.values():
        assert tool.annotations.open_world_hint is False and tool.description and tool.output_schema
        assert not {"user", "user_id", "caller", "self", "namespace"} & set(tool.input_schema["properties"])
    assert set(tools["search_memories"].input_schema["properties"]) == {"query", "limit", "since", "until"}


def test_a_memory_from_its_adding_to_its_deletion(users):
    async def conversation(client):
        item = await call(client, "add_memory", text="My cat is called Tom.")
        assert await call(client, "add_memory", text="My cat is called Tom.") == item
        (found,) = await call(client, "search_memories", query="cat", limit=3)
        assert found == {**item, "score": found["score"]}
        new = await call(client, "update_memory", id=item["id"], text="My cat is called Tim.", reason="renamed")
        assert (new["id"], new["text"]) == (item["id"], "My cat is called Tim.")
        read = await call(client, "read_source", id=item["id"])
        assert read == {"item": new, "turns": [new]}
        assert await call(client, "list_memories") == {"items": [new], "has_more": False}
        receipt = await call(client, "delete_memory", id=item["id"])
        assert (receipt["versions"], receipt["probe"]["documents"]) == (2, 0)
        assert await call(client, "search_memories", query="cat") == []

    talk(users, conversation)


def test_failures_are_results_that_say_what_to_do(users):
    async def conversation(client):
        for tool, arguments, said in (
            ("read_source", {"id": "mem_0"}, "there is no item 'mem_0' in this memory"),
            ("search_memories", {"query": "cat", "limit": 99}, "give 1 to 50"),
            ("search_memories", {"query": "cat", "since": "soon"}, "give one such as 2026-11-27"),
            ("add_memory", {"text": " "}, "text is empty"),
            ("add_memory", {}, "text"),
            ("update_memory", {"id": "mem_\ud800"[:4], "text": "x"}, "there is no item"),
        ):
            result = await client.call_tool(tool, arguments)
            assert result.is_error and said in result.content[0].text

    talk(users, conversation)


def test_nobody_reaches_anothers(users):
    with users.using(BOB) as memory:
        secret = MemoryItems(memory).add("Bobs secret is quixotic.").id

    async def conversation(client):
        assert await call(client, "search_memories", query="secret quixotic") == []
        assert (await call(client, "list_memories"))["items"] == []
        for tool in ("read_source", "delete_memory"):
            assert (await client.call_tool(tool, {"id": secret})).is_error
        assert (await client.call_tool("update_memory", {"id": secret, "text": "Mine."})).is_error
        await client.call_tool("search_memories", {"query": "secret", "user": BOB.user})  # no such argument

    talk(users, conversation)
    with users.using(BOB) as memory:
        assert MemoryItems(memory).one(secret).item.text == "Bobs secret is quixotic."


def test_resources_and_the_prompt(users):
    async def conversation(client):
        item = await call(client, "add_memory", text="My cat is called Tom.")
        (template,) = (await client.list_resource_templates()).resource_templates
        (profile,) = (await client.list_resources()).resources
        assert (template.uri_template, str(profile.uri)) == ("ltm://items/{id}", "ltm://profile")
        (read,) = (await client.read_resource(f"ltm://items/{item['id']}")).contents
        assert json.loads(read.text) == {"item": item, "turns": [item]} and read.mime_type == "application/json"
        (read,) = (await client.read_resource("ltm://profile")).contents
        assert read.text == f"- {item['time'][:10]} {item['id']}: My cat is called Tom."
        (prompt,) = (await client.list_prompts()).prompts
        assert prompt.name == "recall" and [one.name for one in prompt.arguments] == ["about"]
        (message,) = (await client.get_prompt("recall", {"about": "cat"})).messages
        assert "called Tom" in message.content.text and "no instruction" in message.content.text
        (message,) = (await client.get_prompt("recall", {"about": "zork"})).messages
        for missing in ("ltm://items/mem_0", "ltm://zork"):
            with pytest.raises(MCPError):
                await client.read_resource(missing)

    for mode in ERAS:
        talk(users, conversation, mode=mode)
