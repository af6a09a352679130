"""ltm mcp: a client starts it, talks to it on stdin and stdout, and finds the same memory the next time."""

from __future__ import annotations

import asyncio
import os
import sys

from mcp import Client, StdioServerParameters

from ltm.cli import serve as serve_command
from ltm.serve.own_directory import OwnDirectory


def talk(directory, conversation, mode="auto", more=()):
    """Start the command as a client does, and run a conversation(client) with it."""
    command = ["-m", "ltm", "mcp", "--user", "me", "--model", "tiny-llama", "--memory", "text", *more]
    started = StdioServerParameters(
        command=sys.executable, args=[*command, "--data-dir", str(directory)], env=dict(os.environ)
    )

    async def run():
        async with Client(started, mode=mode) as client:
            return await conversation(client)

    return asyncio.run(run())


def test_what_one_process_adds_the_next_one_finds_in_both_eras(tmp_path):
    async def add(client):
        return (await client.call_tool("add_memory", {"text": "My cat is called Tom."})).structured_content["id"]

    async def search(client):
        found = (await client.call_tool("search_memories", {"query": "cat"})).structured_content["result"]
        return [(one["id"], one["text"]) for one in found]

    item = talk(tmp_path / "data", add)
    assert talk(tmp_path / "data", search, mode="legacy") == [(item, "My cat is called Tom.")]


def test_the_graph_of_the_reference_server_moves_in(tmp_path):
    file = tmp_path / "memory.jsonl"
    file.write_text('{"type": "entity", "name": "Tom", "entityType": "cat", "observations": ["likes fish"]}\n')

    async def read(client):
        return (await client.call_tool("read_graph", {})).structured_content["entities"]

    (tom,) = talk(tmp_path / "data", read, more=("--compat", "memory", "--import", str(file)))
    assert tom == {"name": "Tom", "entityType": "cat", "observations": ["likes fish"]}


def test_what_cannot_be_served(run, tmp_path, monkeypatch):
    place = ("--data-dir", tmp_path / "data", "--model", "tiny-llama")
    with OwnDirectory(tmp_path / "data"):
        assert "belongs to a running server" in run("mcp", "--user", "me", *place).err
    for more, said in (
        (("--user", "me", "--memory", "off"), "there is no memory to serve"),
        (("--user", "x" * 513), "memory.user is no name"),
        ((), "--user"),
        (("--user", "me", "--compat", "zork"), "--compat"),
        (("--user", "me", "--import", tmp_path / "none.jsonl"), "none.jsonl cannot be read"),
    ):
        refused = run("mcp", *more, *place)
        assert (refused.code, refused.out) == (2, "") and said in refused.err and refused.err.count("\n") == 1
    monkeypatch.setattr(serve_command, "find_spec", lambda name: None)
    assert (
        run("mcp", "--user", "me", *place).err == 'ltm: a server needs more libraries; run: pip install "ltm[server]"\n'
    )
