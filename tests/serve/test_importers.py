"""What other programs export comes in with its times, once, and what is none of it is refused."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from ltm.errors import LtmError
from ltm.serve.archive_rows import Taken, merge_turns
from ltm.serve.importers import read_export
from ltm.serve.turn_log import TurnLog

MEM0 = [
    {"id": "1", "memory": "Likes fish.", "user_id": "ann", "created_at": "2024-07-26T10:29:36.630547-07:00"},
    {"id": "2", "memory": "Lives in Norwich.", "user_id": "ann", "created_at": None, "metadata": {"a": 1}},
]


def node(name, parent, role, text, time=None, kind="text", **more):
    content = {"content_type": kind, "parts": [text]}
    message = {"author": {"role": role}, "content": content, "create_time": time, **more}
    return name, {"id": name, "parent": parent, "children": [], "message": message}


CHATGPT = [
    {
        "conversation_id": "c1",
        "create_time": 1700000000.5,
        "current_node": "5",
        "mapping": dict(
            [
                ("root", {"id": "root", "parent": None, "message": None}),
                node("1", "root", "system", "You are helpful."),
                node("2", "1", "user", "My cat is Tom.", 1700000001),
                node("2b", "1", "user", "An edit that was left.", 1700000002),
                node("3", "2", "assistant", "print(1)", 1700000003, kind="code"),
                node("4", "3", "assistant", "A nice name.", 1700000004),
                node("5", "4", "user", "Thanks!"),
            ]
        ),
    }
]
GRAPH = [
    {"type": "entity", "name": "Tom", "entityType": "cat", "observations": ["likes fish"]},
    {"type": "relation", "from": "Tom", "to": "Ann", "relationType": "lives_with"},
]


def read(data, **options):
    text = data if isinstance(data, str) else json.dumps(data)
    return read_export(io.BytesIO(text.encode()), 10**6, **options)


def test_mem0():
    found = read({"results": MEM0})
    assert found.kind == "mem0" and [row.text for row in found.rows.turns] == ["Likes fish.", "Lives in Norwich."]
    assert found.rows.turns[0].time == "2024-07-26T17:29:36Z" and found.rows.turns[0].role == "user"
    assert read(MEM0).rows.turns[0] == found.rows.turns[0]
    both = [*MEM0, {**MEM0[0], "id": "3", "user_id": "bob", "memory": "Is Bob."}]
    with pytest.raises(LtmError, match=r"memories of 2 users \(ann, bob\)"):
        read(both)
    assert [row.text for row in read(both, only="bob").rows.turns] == ["Is Bob."]


def test_chatgpt(tmp_path):
    found = read(CHATGPT)
    assert found.kind == "chatgpt"
    assert [(row.role, row.text, row.time) for row in found.rows.turns] == [
        ("user", "My cat is Tom.", "2023-11-14T22:13:21Z"),
        ("assistant", "A nice name.", "2023-11-14T22:13:24Z"),
        ("user", "Thanks!", "2023-11-14T22:13:20Z"),
    ]
    assert found.rows.turns[1].parent == found.rows.turns[0].hash
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("conversations.json", json.dumps(CHATGPT))
        archive.writestr("chat.html", "...")
    assert read_export(packed, 10**6).rows == found.rows
    with pytest.raises(LtmError, match="more than 100 bytes"):
        read_export(packed, 100)


def test_a_memory_jsonl():
    found = read("\n".join(map(json.dumps, GRAPH)))
    assert found.kind == "mcp" and [row.text for row in found.rows.turns] == [
        '"Tom" is of type "cat".',
        '"Tom": likes fish',
        '"Tom" -> "lives_with" -> "Ann"',
    ]


def test_each_is_taken_in_once_and_what_is_said_already_is_not_said_again(tmp_path):
    log = TurnLog(tmp_path)
    for data in (MEM0, CHATGPT, "\n".join(map(json.dumps, GRAPH))):
        rows, first, second = read(data).rows.turns, Taken(), Taken()
        merge_turns(log, rows, False, first)
        merge_turns(log, read(data).rows.turns, False, second)
        assert (first.turns, second.turns, second.known) == (len(rows), 0, len(rows))
    merge_turns(log, read([{**MEM0[0], "id": "9"}]).rows.turns, False, again := Taken())
    assert again.known == 1 and log.num_turns == 8
    log.close()


def test_what_is_none_of_these():
    deep = {**CHATGPT[0], "mapping": {**CHATGPT[0]["mapping"], "2": {"parent": "2", "message": None}}}
    assert [row.text for row in read([deep]).rows.turns] == ["A nice name.", "Thanks!"]  # a ring ends
    for wrong in ("", "zork", "[]", "{}", "[1]", '[{"a": 1}]', "[" * 10_000, '{"results": 3}'):
        with pytest.raises(LtmError, match="no JSON|none of what is known"):
            read(wrong)
    for wrong in (
        [{**MEM0[0], "created_at": "soon"}],
        [{**CHATGPT[0], "mapping": {}}],
        [{**CHATGPT[0], "mapping": [], "current_node": 2**80}],
        [{**CHATGPT[0], "create_time": {}}],
        [{**CHATGPT[0], "create_time": 1e400}, CHATGPT[0]],
        [{"mapping": 3}],
        [{**MEM0[0], "memory": "a\0"}],
    ):
        with pytest.raises(LtmError):
            read(wrong)
    with pytest.raises(LtmError, match="line 2"):
        read(f"{json.dumps(GRAPH[0])}\n{{")
    with pytest.raises(LtmError, match="neither a zip nor"):
        read_export(io.BytesIO(b"\xff\xfe\x00"), 10**6)
