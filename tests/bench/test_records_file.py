"""Records on disk: whole units or none, and none of another configuration."""

from __future__ import annotations

import gzip

import pytest

from ltm.bench.records_file import DifferentSetupError, Entry, RecordsFile, differing, packed, read_entries
from ltm.errors import LtmError

SETUP = {"task": {"documents": 2, "kinds": ["books"]}, "seed": None}


def entry(name: str) -> Entry:
    return Entry(name, 10, 9, 0.5, [{"text": f"ünit {name}", "nats": 1.25}])


def write(path, *names: str) -> RecordsFile:
    records_file = RecordsFile(path, SETUP)
    with records_file.writing():
        for name in names:
            records_file.add(entry(name))
    return records_file


def test_what_was_added_is_read_again(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    write(path, "x", "y")
    assert list(write(path, "z").entries.values()) == [entry("x"), entry("y"), entry("z")]
    assert read_entries(path) == [entry("x"), entry("y"), entry("z")]
    assert read_entries(tmp_path / "nothing.jsonl") == []


def test_a_packed_file_is_read_and_gone_on_with(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, "x", "y")
    packed(path).write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert read_entries(path) == [entry("x"), entry("y")]
    assert list(write(path, "z").entries) == ["x", "y", "z"] and not packed(path).exists()
    assert read_entries(path) == [entry("x"), entry("y"), entry("z")]
    packed(path.with_name("b.jsonl")).write_bytes(b"no gzip")
    with pytest.raises(LtmError, match="b.jsonl.gz is damaged"):
        read_entries(path.with_name("b.jsonl"))


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line_is_run_again(tmp_path, kept):
    path = tmp_path / "a.jsonl"
    write(path, "x", "y")
    whole, start = path.read_bytes(), path.read_bytes().rindex(b"\n", 0, -1) + 1
    path.write_bytes(whole[: start + kept] if kept > 0 else whole[:kept])
    records_file = RecordsFile(path, SETUP)
    assert list(records_file.entries) == ["x"]
    with records_file.writing():
        records_file.add(entry("y"))
    assert path.read_bytes() == whole


def test_a_torn_first_line_begins_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path)
    path.write_bytes(path.read_bytes()[:10])
    assert list(write(path, "x").entries) == ["x"]
    assert list(RecordsFile(path, SETUP).entries) == ["x"]


def test_another_setup_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, "x")
    with pytest.raises(DifferentSetupError, match=r"task\.documents: 2 there, 4 now.*--restart"):
        RecordsFile(path, {**SETUP, "task": {"documents": 4, "kinds": ["books"]}})
    assert differing(SETUP, {"task": {"kinds": ["books"]}, "seed": 1}) == [
        "task.documents: 2 there, None now",
        "seed: None there, 1 now",
    ]


def test_damage_in_the_middle_is_told(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, "x", "y")
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:9], *lines[2:]]))
    with pytest.raises(LtmError, match=r"a\.jsonl:2 is damaged"):
        RecordsFile(path, SETUP)
    path.write_text('{"text": "mine"}\n')
    with pytest.raises(LtmError, match="does not begin as"):
        RecordsFile(path, SETUP)


def test_two_runs_do_not_write_one_file(tmp_path):
    pytest.importorskip("fcntl", reason="files are locked where the system has flock")
    first, second = RecordsFile(tmp_path / "a.jsonl", SETUP), RecordsFile(tmp_path / "a.jsonl", SETUP)
    with first.writing(), pytest.raises(LtmError, match="another run"), second.writing():
        pass
