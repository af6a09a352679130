"""The reference memory server's nine tools on a user's items, through mcp's own client."""

from __future__ import annotations

import json
from functools import partial

import pytest
import test_mcp_server
from test_mcp_server import ERAS, call
from test_users import ANN, BOB

from ltm.errors import LtmError
from ltm.serve.knowledge_graph import KnowledgeGraph, read_lines
from ltm.serve.mcp_graph import mcp_graph
from ltm.serve.memory_items import MemoryItems

TOM = {"name": "Tom", "entityType": "cat", "observations": ["likes fish", "is grey"]}
ANNA = {"name": 'Anna "A" B', "entityType": "person", "observations": []}
LIVES = {"from": "Tom", "to": 'Anna "A" B', "relationType": "lives_with"}


@pytest.fixture
def model(text_model):
    return text_model


talk = partial(test_mcp_server.talk, make=mcp_graph)


def graph_of(users):
    with users.using(ANN) as memory:
        return KnowledgeGraph(MemoryItems(memory))


@pytest.mark.parametrize("mode", ERAS)
def test_the_nine_tools(users, mode):
    async def conversation(client):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert len(tools) == 9 and all(tool.output_schema for tool in tools.values())
        assert set(tools["create_relations"].input_schema["$defs"]["Relation"]["properties"]) == set(LIVES)
        made = await call(client, "create_entities", entities=[TOM, ANNA, {**TOM, "observations": []}])
        assert made == {"entities": [TOM, ANNA]}
        assert await call(client, "create_entities", entities=[TOM]) == {"entities": []}
        assert await call(client, "create_relations", relations=[LIVES, LIVES]) == {"relations": [LIVES]}
        added = await call(
            client, "add_observations", observations=[{"entityName": "Tom", "contents": ["is grey", "sleeps"]}]
        )
        assert added == {"results": [{"entityName": "Tom", "addedObservations": ["sleeps"]}]} or added == [
            {"entityName": "Tom", "addedObservations": ["sleeps"]}
        ]
        tom = {**TOM, "observations": ["likes fish", "is grey", "sleeps"]}
        whole = {"entities": [tom, ANNA], "relations": [LIVES]}
        assert await call(client, "read_graph") == whole
        (read,) = (await client.read_resource("memory://knowledge-graph")).contents
        assert json.loads(read.text) == whole
        assert (await call(client, "search_nodes", query="FISH")) == {"entities": [tom], "relations": [LIVES]}
        found = await call(client, "search_nodes", query="Toms fish?")  # no entity holds this
        assert tom in found["entities"]
        assert (await call(client, "open_nodes", names=["Tom", "zork"]))["entities"] == [tom]
        gone = await call(client, "delete_observations", deletions=[{"entityName": "Tom", "observations": ["sleeps"]}])
        assert gone == {"success": True, "message": "Observations deleted successfully"}
        gone = await call(client, "delete_relations", relations=[LIVES, {**LIVES, "relationType": "owns"}])
        assert gone["message"] == "Deleted 1 of 2 relations. The rest matched nothing."
        gone = await call(client, "delete_entities", entityNames=["Tom", "zork"])
        assert gone["message"] == "Deleted 1 of 2 entities. Not found: zork"
        assert await call(client, "read_graph") == {"entities": [ANNA], "relations": []}
        for tool, arguments in (
            ("add_observations", {"observations": [{"entityName": "zork", "contents": ["x"]}]}),
            ("create_relations", {"relations": [LIVES]}),
        ):
            refused = await client.call_tool(tool, arguments)
            assert refused.is_error and "not found" in refused.content[0].text

    talk(users, conversation, mode=mode)


def test_it_is_the_same_memory_as_everywhere(users):
    with users.using(ANN) as memory:
        items = MemoryItems(memory)
        items.add("My office opens at nine.")
        KnowledgeGraph(items).create_entities([("Tom", "cat", ["likes fish"])])
        found = items.search("fish")[0]
        assert found.text == '"Tom": likes fish'
        items.correct(found.id, '"Tom": likes mice')
        memory.note([("user", "What is new?")], answer='"Tom": flies')
    graph = graph_of(users)
    assert list(graph.entities["Tom"].observations) == ["likes mice"]
    assert list(graph.entities["user"].observations) == ["My office opens at nine.", "What is new?"]

    async def conversation(client):
        found = await call(client, "search_nodes", query="office")
        assert [one["name"] for one in found["entities"]] == ["user"]
        gone = {"entityName": "user", "observations": ["My office opens at nine."]}
        await call(client, "delete_observations", deletions=[gone])

    talk(users, conversation)
    with users.using(ANN) as memory:
        assert "My office opens at nine." not in [one.text for one in MemoryItems(memory).search("office")]

    async def look(client):
        return await call(client, "read_graph")

    assert talk(users, look, BOB) == {"entities": [], "relations": []}


def test_a_memory_jsonl_is_taken_in_once(users, tmp_path):
    lines = [{"type": "entity", **TOM}, {"type": "relation", **LIVES}, {"type": "entity", **TOM, "name": "Tim"}]
    file = tmp_path / "memory.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)))
    for new in (4, 0):  # two entities, one that only a relation names, the relation
        with users.using(ANN) as memory:
            items = MemoryItems(memory)
            count = KnowledgeGraph(items).take_in(read_lines(file)) + 0
            assert count + (new == 4) == new and memory.num_turns == 8
    assert list(graph_of(users).entities) == ["Tom", "Tim", 'Anna "A" B']
    for wrong in (
        "{",
        '{"type": "entity"}',
        "[]",
        '{"type": "entity", "name": "a", "entityType": "b", "observations": 3}',
    ):
        file.write_text(f"{json.dumps(lines[0])}\n{wrong}")
        with pytest.raises(LtmError, match="line 2 is neither an entity nor a relation"):
            read_lines(file)
    with pytest.raises(LtmError, match="cannot be read"):
        read_lines(tmp_path / "none.jsonl")
