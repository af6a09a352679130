"""All of a user in a zip and back: times, versions and roles kept; what is unsound is refused whole; kills."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import closing
from datetime import timedelta
from random import Random

import pytest
from test_users import ANN, BOB, holding

from ltm.errors import LtmError
from ltm.serve import importing as importing_module
from ltm.serve import user_memory as user_memory_module
from ltm.serve.archive import read_archive, write_archive
from ltm.serve.archive_rows import Rows, TurnRow
from ltm.serve.data_directory import DataDirectory, rows_of
from ltm.serve.importers import read_export
from ltm.serve.keys import KeyStore, utc_now
from ltm.serve.memory_items import MemoryItems
from ltm.serve.replays import Replay, Replays
from ltm.serve.response_store import Kept, ResponseStore
from ltm.serve.turn_log import TurnLog, places
from ltm.serve.users import Users

MOST = 10**8


def fill(users, monkeypatch):
    """Turns of two days, a correction, a deletion, a conversation and a response."""
    with users.using(ANN) as memory:
        items = MemoryItems(memory)
        monkeypatch.setattr(user_memory_module, "utc_now", lambda: utc_now() - timedelta(days=3))
        cat = items.add("My cat is called Tom.")
        memory.note([("user", "My sister lives in Leeds.")], "conv_1", "A nice town.")
        monkeypatch.undo()
        items.correct(cat.id, "My cat is called Tim.", "renamed")
        items.delete(items.add("Quixotic glyphs.").id)
        memory.take_in()
    with users.responses(ANN, make=True) as store:
        said = [{"role": "user", "content": "My sister lives in Leeds."}]
        (after,) = places(said, "conv_1")
        item = {
            "id": "msg_1",
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": said[0]["content"]}],
        }
        store.database.run("INSERT INTO conversations VALUES ('conv_1', 5, '{}')")
        response = {
            "id": "resp_1",
            "created_at": 7,
            "previous_response_id": None,
            "conversation": {"id": "conv_1"},
            "output": [],
        }
        store.add(response, [Kept(item, after)], "conv_1")


def everything(directory):
    """All rows of a user's directory, but numbers."""
    with closing(TurnLog(directory)) as log, closing(ResponseStore(directory, make=False)) as store:
        rows = rows_of(log, store)
    return [row.model_dump() for row in rows.turns], [row.model_dump() for row in rows.kept]


@pytest.fixture
def made(model, keys, tmp_path, monkeypatch):
    """(directory of the data, archive of ann's)."""
    users = Users(tmp_path / "data", model, keys, budget=10**9)
    fill(users, monkeypatch)
    users.close()
    file = io.BytesIO()
    with DataDirectory.owned(tmp_path / "data") as data:
        data.export(ANN, file)
    return tmp_path / "data", file


def place_of(directory, caller):
    with closing(KeyStore(directory)) as keys:
        return directory / "users" / caller.directory(keys.secret)


def put(directory, file, caller=ANN, **options):
    with DataDirectory.owned(directory) as data:
        return data.take_in(caller, read_export(file, MOST), file, **options)


def test_what_is_taken_out_comes_back_as_it_was_and_once(made, model, tmp_path):
    directory, file = made
    new = tmp_path / "new"
    taken = put(new, file)
    assert (taken.turns, taken.known, taken.conversations, taken.responses, taken.items) == (4, 0, 1, 1, 1)
    before, after = everything(place_of(directory, ANN)), everything(place_of(new, ANN))
    assert after == before and len(before[0]) == 5 and len(before[1]) == 3
    assert not holding(b"Quixotic", new)
    again = put(new, file)
    assert (again.turns, again.known, again.items) == (0, 5, 0) and everything(place_of(new, ANN)) == before
    with closing(KeyStore(new)) as keys, closing(Users(new, model, keys, budget=10**9)) as users:
        with users.using(ANN) as memory:
            items = MemoryItems(memory)
            (cat, *_) = items.search("cat")
            assert cat.text == "My cat is called Tim."
            history = items.history(cat.id)
            assert [one.text for one in history] == ["My cat is called Tom.", "My cat is called Tim."]
            assert history[0].time < history[1].time == history[0].replaced and history[1].reason == "renamed"
            assert [one.source for one in items.page().items] == ["user", "user", "assistant"]
            assert memory.note([("user", "My sister lives in Leeds.")], "conv_1", "A nice town.") == []
        with users.responses(ANN) as store:
            assert store.conversation("conv_1")["created_at"] == 5 and store.response("resp_1")["id"] == "resp_1"


def test_a_memory_of_this_model_is_taken_over_and_anothers_is_made_anew(made, model, tmp_path, monkeypatch):
    _, file = made
    put(tmp_path / "new", file)
    place = place_of(tmp_path / "new", ANN) / model.place
    assert (place / ".imported").exists()
    with closing(KeyStore(tmp_path / "new")) as keys, closing(Users(tmp_path / "new", model, keys, 10**9)) as users:
        session = type(model.session(tmp_path / "probe"))
        kept, keep = [], session.keep
        monkeypatch.setattr(session, "keep", lambda self, *rest: kept.append(rest) or keep(self, *rest))
        with users.using(ANN) as memory:
            assert kept == [] and len(memory.session.documents) == 2 and not (place / ".imported").exists()
    put(tmp_path / "other", file)
    place = place_of(tmp_path / "other", ANN) / model.place
    for path in place.rglob("*"):  # of a model that cannot be told, or damaged
        if path.is_file() and path.name != ".imported":
            path.write_bytes(b"zork" + path.read_bytes()[4:])
    with closing(KeyStore(tmp_path / "other")) as keys, closing(Users(tmp_path / "other", model, keys, 10**9)) as users:
        with users.using(ANN) as memory:
            assert len(kept) == 2 == len(memory.session.documents)
            assert MemoryItems(memory).search("cat")[0].text == "My cat is called Tim."


def test_a_memory_that_holds_more_than_the_log_says_is_made_anew(made, model, tmp_path):
    _, file = made
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.startswith("memories/")]
        rows = read_archive(file, MOST).rows
        archive.extractall(tmp_path / "old", names)
    fewer = io.BytesIO()
    write_archive(fewer, type(rows)(rows.turns[1:2]), list((tmp_path / "old" / "memories").iterdir()))
    put(tmp_path / "new", fewer)
    with closing(KeyStore(tmp_path / "new")) as keys, closing(Users(tmp_path / "new", model, keys, 10**9)) as users:
        with users.using(ANN) as memory:
            assert len(memory.session.documents) == 1
            assert "My cat is called Tim." not in [one.text for one in MemoryItems(memory).search("cat")]


def test_what_was_deleted_stays_so_unless_it_is_asked_for(made, model):
    directory, file = made
    with closing(KeyStore(directory)) as keys, closing(Users(directory, model, keys, 10**9)) as users:
        with users.using(ANN) as memory:
            MemoryItems(memory).delete_all()
    taken = put(directory, file)
    assert (taken.turns, taken.deleted) == (0, 5)  # four turns, and an item that is one of them
    assert everything(place_of(directory, ANN))[0][0]["text"] == ""
    taken = put(directory, file, restore=True)
    assert (taken.turns, taken.items) == (4, 1)
    with closing(KeyStore(directory)) as keys, closing(Users(directory, model, keys, 10**9)) as users:
        with users.using(ANN) as memory:
            assert [one.text for one in MemoryItems(memory).page().items][0] == "My cat is called Tim."
            assert MemoryItems(memory).search("cat")[0].text == "My cat is called Tim."


def test_another_user_takes_it_in_and_a_deleted_one_is_gone(made, tmp_path):
    directory, file = made
    with closing(Replays(directory)) as replays:
        replays.add(
            "name", place_of(directory, ANN).name, Replay("b", 200, [], b"Tom is a cat."), 60.0, time.monotonic()
        )
        assert replays.find("name") is not None
    put(directory, file, BOB)
    assert everything(place_of(directory, BOB)) == everything(place_of(directory, ANN))
    with DataDirectory.owned(directory) as data:
        assert [(one.user, one.items) for one in data.users()] == [("ann", 3), ("../bob", 3)]
        assert data.delete("ann") == 1
        assert [one.user for one in data.users()] == ["../bob"]
        with closing(Replays(directory)) as replays:
            assert replays.find("name") is None
        with pytest.raises(LtmError, match="nothing is stored of a user 'ann' there; there are: ../bob"):
            data.delete("ann")
        with pytest.raises(LtmError, match="nothing is stored"):
            data.export(ANN, io.BytesIO())
    assert len(list((directory / "users").iterdir())) == 1


# what is refused


def rewritten(file, change=None, **files):
    """An archive with other files; change(manifest): what it says then. None: a file that is not there."""
    made = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        manifest = json.loads(old.read("manifest.json"))
        for name in old.namelist():
            if name != "manifest.json":
                files.setdefault(name, old.read(name))
        if change is not None:
            change(manifest)
        for name, data in files.items():
            if data is not None:
                new.writestr(name, data)
        new.writestr("manifest.json", json.dumps(manifest))
    return made


def told(manifest, name, data):
    import hashlib

    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def with_events(file, *rows):
    data = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()
    return rewritten(file, lambda manifest: told(manifest, "events.jsonl", data), **{"events.jsonl": data})


def with_file(file, name, data=b"x"):
    return rewritten(file, lambda manifest: told(manifest, name, data), **{name: data})


def test_what_is_no_sound_archive_is_refused_and_nothing_of_it_stays(made, tmp_path):
    _, file = made
    row = {
        "hash": "a" * 64,
        "parent": "",
        "role": "user",
        "text": "Hi.",
        "time": "2026-01-01T00:00:00Z",
        "first": "a" * 64,
    }
    bomb = b"\0" * 3 * 10**6
    cut = io.BytesIO(file.getvalue()[:-200])
    swapped = bytearray(file.getvalue())
    swapped[file.getvalue().find(b"events.jsonl") + 40] ^= 255
    for wrong, said in (
        (rewritten(file, lambda m: m.update(version=2, ltm="9.9")), "version 2, written by ltm 9.9"),
        (rewritten(file, lambda m: m.update(format="zork")), "no archive of a user of ltm"),
        (rewritten(file, lambda m: m.pop("files")), "names no files"),
        (rewritten(file, **{"events.jsonl": b"{}"}), "damaged"),
        (rewritten(file, **{"events.jsonl": None}), "other files than its manifest"),
        (rewritten(file, more=b"x"), "other files than its manifest"),
        (with_file(file, "memories/../../evil"), "would lie elsewhere"),
        (with_file(file, "memories/x/.imported"), "would lie elsewhere"),
        (with_file(file, "/etc/passwd"), "would lie elsewhere"),
        (with_file(file, "memories/x\\y/z"), "would lie elsewhere"),
        (with_file(file, "turns.sqlite3"), "would lie elsewhere"),
        (with_file(file, "memories/text-x/bomb", bomb), "unpack to more than 1,000,000"),
        (rewritten(file, lambda m: told(m, "memories/x/y", b"x"), **{"memories/x/y": bomb}), "damaged"),
        (with_events(file, "{"), "events.jsonl line 1"),
        (with_events(file, row, {**row, "role": "system"}), "line 2: role"),
        (with_events(file, {**row, "more": 1}), "line 1: more"),
        (with_events(file, {**row, "hash": "../x"}), "line 1: hash"),
        (with_events(file, {**row, "time": "soon"}), "line 1: time"),
        (with_events(file, {**row, "parent": "b" * 64}), "not what its hash says"),
        (with_events(file, {**row, "text": " "}), "is empty"),
        (with_events(file, {**row, "forgotten": True}), "forgotten and has a text"),
        (with_events(file, {**row, "text": "a\0b"}), "NUL"),
        (cut, "nothing was taken in"),
        (io.BytesIO(bytes(swapped)), "damaged"),
        (io.BytesIO(b"PK\3\4zork"), "nothing was taken in"),
    ):
        with pytest.raises(LtmError, match=said) as refused:
            read_export(wrong, 10**6)
        assert "\n" not in str(refused.value)
    encrypted = bytearray(file.getvalue())
    for mark in (b"PK\3\4", b"PK\1\2"):
        at = encrypted.find(mark) + (6 if mark == b"PK\3\4" else 8)
        encrypted[at] |= 1
    with pytest.raises(LtmError, match="nothing was taken in"):
        read_export(io.BytesIO(bytes(encrypted)), 10**6)


class Killed(BaseException):
    pass


def test_killed_anywhere_an_import_is_whole_or_not_there(made, text_model, tmp_path, monkeypatch):
    _, file = made
    put(tmp_path / "whole", file)
    whole = everything(place_of(tmp_path / "whole", ANN))
    outcomes, steps = set(), 0
    for steps in range(200):
        directory, left = tmp_path / f"data{steps}", steps
        with closing(KeyStore(directory)) as keys:
            keys.note_user(ANN.directory(keys.secret), "default", "ann", "default")

        def step(call):
            def counted(*arguments, **options):
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return call(*arguments, **options)

            return counted

        with monkeypatch.context() as patch:
            patch.setattr(importing_module.os, "replace", step(os.replace))
            patch.setattr(importing_module.os, "fsync", step(os.fsync))
            patch.setattr(importing_module, "merge_turns", step(importing_module.merge_turns))
            patch.setattr(importing_module, "merge_kept", step(importing_module.merge_kept))
            patch.setattr(importing_module.shutil, "rmtree", step(shutil.rmtree))
            try:
                put(directory, file)
                break
            except Killed:
                pass
        with DataDirectory.owned(directory):
            pass  # the next start
        there = everything(place_of(directory, ANN)) if place_of(directory, ANN).exists() else ([], [])
        assert there in (([], []), whole)
        outcomes.add(bool(there[0]))
        assert not [*place_of(directory, ANN).glob(".import-*"), *place_of(directory, ANN).glob(".gone-*")]
        put(directory, file)
        assert everything(place_of(directory, ANN)) == whole
    assert steps > 12 and outcomes == {True, False}


IMPORT = """
import sys
from pathlib import Path
from ltm.serve.archive_rows import Rows, TurnRow
from ltm.serve.data_directory import DataDirectory
from ltm.serve.identity import Caller
from ltm.serve.importers import read_export
with DataDirectory.owned(Path(sys.argv[1])) as data, open(sys.argv[2], "rb") as file:
    read = read_export(file, 10**9)
    print("ready", flush=True)
    data.take_in(Caller("default", "ann"), read, file)
    print("done", flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_an_import_whole_or_not_there(tmp_path):
    turns = [
        TurnRow(
            hash=f"{n:064x}", parent="", role="user", text=f"Fact {n}.", time="2026-01-01T00:00:00Z", first=f"{n:064x}"
        )
        for n in range(3000)
    ]
    with open(tmp_path / "ann.zip", "wb") as file:
        write_archive(file, Rows(turns))
    random, counts = Random(3), []
    for number in range(8):
        directory = tmp_path / str(number)
        command = [sys.executable, "-c", IMPORT, str(directory), str(tmp_path / "ann.zip")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(random.uniform(0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        said = process.stdout.read()
        process.wait(10)
        with DataDirectory.owned(directory) as data:
            counts += [one.items for one in data.users()] or [0]
        assert counts[-1] in (0, 3000) and (counts[-1] or not said)
    assert set(counts) == {0, 3000}
