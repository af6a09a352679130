"""Anthropic's memory commands on a user's items: what a model is told, what is kept, and no way out of /memories."""

from __future__ import annotations

import asyncio

import pytest
from mcp import Client
from test_mcp_server import ERAS
from test_users import ANN

from ltm.serve.errors import ApiError
from ltm.serve.mcp_files import mcp_files
from ltm.serve.mcp_server import local_reach
from ltm.serve.memory_files import MemoryFiles
from ltm.serve.memory_items import MemoryItems


@pytest.fixture
def model(text_model):
    return text_model


@pytest.fixture
def files(users):
    """files() sees what is there by now."""
    with users.using(ANN) as memory:
        yield lambda: MemoryFiles(MemoryItems(memory))


def test_a_file_from_its_making_to_its_end(files):
    assert files().create("/memories/cats/tom.txt", "Tom.\nGrey.\nTom") == (
        "File created successfully at: /memories/cats/tom.txt"
    )
    told = files().view("/memories/cats/tom.txt")
    assert told.splitlines() == [
        "Here's the content of /memories/cats/tom.txt with line numbers:",
        "     1\tTom.",
        "     2\tGrey.",
        "     3\tTom",
    ]
    assert files().view("/memories/cats/tom.txt", [2, -1]).splitlines()[1:] == ["     2\tGrey.", "     3\tTom"]
    edited = files().str_replace("/memories/cats/tom.txt", "Grey", "Black")
    assert edited.splitlines()[1:] == ["     1\tTom.", "     2\tBlack.", "     3\tTom"]
    files().insert("/memories/cats/tom.txt", 0, "Cats:\n")
    files().rename("/memories/cats", "/memories/pets")
    assert (
        files()
        .view("/memories/pets/tom.txt")
        .endswith("     1\tCats:\n     2\tTom.\n     3\tBlack.\n     4\tTom\n     5\t")
    )
    (item,) = files().items.said_by_user()
    assert (
        item.text == "/memories/pets/tom.txt\nCats:\nTom.\nBlack.\nTom\n" and len(files().items.history(item.id)) == 4
    )
    assert [one.id for one in files().items.search("black cats")] == [item.id]
    assert files().delete("/memories/pets") == "Successfully deleted /memories/pets"
    assert files().items.said_by_user() == []


def test_directories(files):
    for path, text in (("a.txt", "x" * 1536), ("deep/er/est.txt", "y"), (".hidden", "z"), ("deep/b.txt", "")):
        files().create(f"/memories/{path}", text)
    assert files().view("/memories/").splitlines() == [
        "Here're the files and directories up to 2 levels deep in /memories, excluding hidden items:",
        "1.5K\t/memories",
        "1.5K\t/memories/a.txt",
        "1B\t/memories/deep/",
        "0B\t/memories/deep/b.txt",
        "1B\t/memories/deep/er/",
    ]
    assert files().view("/memories/deep").splitlines()[1:] == [
        "1B\t/memories/deep",
        "0B\t/memories/deep/b.txt",
        "1B\t/memories/deep/er/",
        "1B\t/memories/deep/er/est.txt",
    ]


def test_what_cannot_be(files):
    files().create("/memories/a.txt", "one\ntwo one")
    for command, arguments, said in (
        ("create", ("/memories/a.txt", "x"), "already exists"),
        ("create", ("/memories/a.txt/b", "x"), "is not a directory"),
        ("create", ("/memories", "x"), "already exists"),
        ("str_replace", ("/memories/a.txt", "one", "x"), "Multiple occurrences of old_str `one` in lines: 1, 2"),
        ("str_replace", ("/memories/a.txt", "zork", "x"), "did not appear verbatim"),
        ("str_replace", ("/memories/a.txt", "", "x"), "did not appear verbatim"),
        ("str_replace", ("/memories", "a", "x"), "is not a file"),
        ("insert", ("/memories/a.txt", 3, "x"), r"within the range \[0, 2\]"),
        ("delete", ("/memories",), "Cannot delete"),
        ("delete", ("/memories/zork",), "does not exist"),
        ("rename", ("/memories/a.txt", "/memories/a.txt"), "already exists"),
        ("rename", ("/memories/a.txt", "/memories/a.txt/b"), "Cannot rename"),
        ("view", ("/memories/zork",), "does not exist"),
        ("view", ("/memories/a.txt", [1]), "first and the last line"),
    ):
        with pytest.raises(ApiError, match=said):
            getattr(files(), command)(*arguments)
    for path in (
        "/memories/../x",
        "/memories//x",
        "/etc/passwd",
        "memories/x",
        "/memories/.",
        "/memories/a\nb",
        "",
        "/",
    ):
        for command, more in (("view", ()), ("create", ("x",)), ("delete", ())):
            with pytest.raises(ApiError, match="must start with|would escape"):
                getattr(files(), command)(path, *more)
    assert files().view("/memories/a.txt").endswith("     1\tone\n     2\ttwo one")


@pytest.mark.parametrize("mode", ERAS)
def test_over_mcp(users, mode):
    async def conversation():
        async with Client(mcp_files(local_reach(users, ANN)), mode=mode) as client:
            (tool,) = (await client.list_tools()).tools
            assert tool.name == "memory" and tool.annotations.destructive_hint
            made = await client.call_tool("memory", {"command": "create", "path": "/memories/a", "file_text": "b"})
            assert made.content[0].text == "File created successfully at: /memories/a" and not made.is_error
            seen = await client.call_tool("memory", {"command": "view", "path": "/memories/a"})
            assert seen.content[0].text.endswith("     1\tb")
            for wrong, said in (
                ({"command": "create", "path": "/memories/b"}, "create needs file_text"),
                ({"command": "fly"}, "command"),
                ({"command": "view", "path": "/memories/zork"}, "does not exist"),
            ):
                refused = await client.call_tool("memory", wrong)
                assert refused.is_error and said in refused.content[0].text

    asyncio.run(conversation())
