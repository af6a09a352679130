"""ltm users: what is stored of whom, taken out, put in and deleted, while no server runs."""

from __future__ import annotations

import json

from ltm.serve.own_directory import OwnDirectory

MEM0 = [{"id": "1", "memory": "Likes fish.", "created_at": "2024-07-26T10:00:00Z"}]


def refused(result):
    assert result.code == 2 and result.out == "" and result.err.count("\n") == 1, result
    return result.err


def test_a_user_moves_to_another_directory(run, tmp_path):
    (tmp_path / "mem0.json").write_text(json.dumps(MEM0))
    old, new = ("--data-dir", tmp_path / "old"), ("--data-dir", tmp_path / "new")
    assert "took in 1 turns" in run("users", "import", "ann", tmp_path / "mem0.json", *old).err
    taken = run("users", "import", "ann", tmp_path / "mem0.json", "--json", *old).json()
    assert (taken["kind"], taken["turns"], taken["known"]) == ("mem0", 0, 1)
    (listed,) = run("users", "list", "--json", *old).json()
    assert (listed["user"], listed["namespace"], listed["items"]) == ("ann", "default", 1) and listed["nbytes"] > 0
    assert "ann" in run("users", "list", *old).out
    archive = tmp_path / "ann.zip"
    assert run("users", "export", "ann", "-o", archive, "--json", *old).json()["turns"] == 1
    assert archive.stat().st_mode & 0o77 == 0
    assert "there already" in refused(run("users", "export", "ann", "-o", archive, *old))
    assert run("users", "import", "bob", archive, "--namespace", "work", "--json", *new).json()["turns"] == 1
    assert [(one["user"], one["namespace"]) for one in run("users", "list", "--json", *new).json()] == [("bob", "work")]


def test_deleting_is_confirmed_and_leaves_nothing(run, tmp_path):
    (tmp_path / "mem0.json").write_text(json.dumps(MEM0))
    place = ("--data-dir", tmp_path / "data")
    run("users", "import", "ann", tmp_path / "mem0.json", *place)
    run("keys", "create", "laptop", "--user", "ann", *place)
    assert "say --yes" in refused(run("users", "delete", "ann", *place))
    done = run("users", "delete", "ann", "--yes", *place)
    assert "deleted ann: 1 memory" in done.err and "laptop" in done.err
    assert run("users", "list", "--json", *place).json() == [] and not list((tmp_path / "data" / "users").iterdir())
    assert "nothing is stored of a user 'ann'" in refused(run("users", "delete", "ann", "--yes", *place))


def test_what_cannot_be(run, tmp_path):
    place = ("--data-dir", tmp_path / "data")
    (tmp_path / "zork").write_text("zork")
    assert "no JSON" in refused(run("users", "import", "ann", tmp_path / "zork", *place))
    assert "cannot be read" in refused(run("users", "import", "ann", tmp_path / "none", *place))
    assert "nothing is stored" in refused(run("users", "export", "ann", "-o", tmp_path / "a.zip", *place))
    assert not (tmp_path / "a.zip").exists() and not list(tmp_path.glob(".*"))
    assert "is no name" in refused(run("users", "export", "x" * 513, "-o", tmp_path / "a.zip", *place))
    with OwnDirectory(tmp_path / "data"):
        for command in (
            ("delete", "ann", "--yes"),
            ("export", "ann", "-o", tmp_path / "a.zip"),
            ("import", "ann", tmp_path / "zork"),
        ):
            assert "belongs to a running server" in refused(run("users", *command, *place))
        assert run("users", "list", "--json", *place).json() == []
