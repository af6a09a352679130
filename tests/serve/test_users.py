"""Users' memories: each in its own directory, opened and closed as needed, one server to a data directory."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from threading import Thread

import pytest

from ltm.errors import LtmError
from ltm.methods.registry import create_method
from ltm.serve import user_memory as user_memory_module
from ltm.serve import users as users_module
from ltm.serve.identity import Caller
from ltm.serve.keys import utc_now
from ltm.serve.own_directory import OwnDirectory
from ltm.serve.served_model import ServedModel
from ltm.serve.users import Users

ANN, BOB = Caller("default", "ann"), Caller("default", "../bob")


def say(users, caller, text, answer=None):
    with users.using(caller) as memory:
        written = memory.note([("user", text)], answer=answer)
        memory.take_in()
        return written


def names(users, caller):
    with users.using(caller) as memory:
        return {info.name for info in memory.session.documents}


def test_what_was_said_lies_in_the_users_own_memory_and_survives(model, keys, tmp_path):
    users = Users(tmp_path / "data", model, keys, budget=10**9)
    said = say(users, ANN, "My cat is Tom.", "A nice name.")
    assert names(users, ANN) == {said[0].name}  # answers are logged, and taken in where that is asked for
    users.close()
    users = Users(tmp_path / "data", model, keys, budget=10**9, roles=("user", "assistant"))
    assert names(users, ANN) == {turn.name for turn in said} and len(said) == 2
    assert names(users, BOB) == set() and users.num_open == 2
    users.close()
    again = Users(tmp_path / "data", model, keys, budget=10**9)
    assert names(again, ANN) == {turn.name for turn in said}
    again.close()
    folders = [path.name for path in (tmp_path / "data" / "users").iterdir()]
    assert len(folders) == 2 and all(len(name) == 64 for name in folders)
    assert not list(tmp_path.rglob("*bob*")) and not list(tmp_path.rglob("*ann*"))
    assert keys.database.run("SELECT user FROM users ORDER BY user") == [("../bob",), ("ann",)]


def test_turns_that_a_kill_left_waiting_are_taken_in_once(model, keys, tmp_path):
    users = Users(tmp_path / "data", model, keys, budget=10**9)
    with users.using(ANN) as memory:
        one, two = memory.note([("user", "My cat is Tom."), ("user", "He is grey.")])
        memory.session.keep([{"role": "user", "content": one.text}], one.name)  # and killed before that was noted
    users.close()
    again = Users(tmp_path / "data", model, keys, budget=10**9)
    with again.using(ANN) as memory:
        assert sorted(info.name for info in memory.session.documents) == sorted([one.name, two.name])
        assert memory.log.waiting(memory.place) == []
    again.close()


def test_another_model_makes_its_memory_from_the_log(longmem, text_model, keys, tmp_path):
    users = Users(tmp_path / "data", longmem, keys, budget=10**9)
    say(users, ANN, "My cat is Tom.")
    held = names(users, ANN)
    users.close()
    other = Users(tmp_path / "data", text_model, keys, budget=10**9)
    assert names(other, ANN) == held != set()
    other.close()


def test_the_least_lately_used_are_closed_within_the_budget_and_open_again(longmem, keys, tmp_path):
    callers = [Caller("default", f"user {n}") for n in range(4)]
    roomy = Users(tmp_path / "data", longmem, keys, budget=10**9)
    for caller in callers:
        say(roomy, caller, f"This is {caller.user}.")
    assert roomy.num_open == 4
    roomy.close()
    names(roomy, callers[0])  # as it is when it was opened and nothing is added
    size = roomy.nbytes
    roomy.close()
    users = Users(tmp_path / "data", longmem, keys, budget=2 * size + size // 2)
    for caller in callers:
        assert len(names(users, caller)) == 1
    assert (users.num_open, users.num_closed) == (2, 2) and users.nbytes <= users.budget
    with users.using(callers[0]), users.using(callers[1]), users.using(callers[2]):  # in use: over budget, not closed
        assert users.num_open >= 3
    assert users.num_open == 2
    users.close()


def test_users_wait_for_themselves_alone(longmem, keys, tmp_path):
    users, done = Users(tmp_path / "data", longmem, keys, budget=0), []
    with users.using(ANN):
        other = Thread(target=lambda: (say(users, BOB, "Hi."), done.append("bob")))
        same = Thread(target=lambda: (say(users, ANN, "Hi."), done.append("ann")))
        other.start(), same.start()
        other.join(20)
        assert done == ["bob"]
    same.join(20)
    assert done == ["bob", "ann"] and users.num_open == 0
    users.close()


def test_what_is_old_is_forgotten_everywhere(model, keys, tmp_path, monkeypatch):
    users = Users(tmp_path / "data", model, keys, budget=10**9, retention=timedelta(days=90))
    now = utc_now()
    (old,) = say(users, ANN, "Quixotic Wymondham glyphs.")
    with users.using(ANN) as memory:
        assert memory.session.ask("Quixotic?", max_new_tokens=1).recalled
    assert holding(b"Quixotic", tmp_path)
    for module in (users_module, user_memory_module):
        monkeypatch.setattr(module, "utc_now", lambda: now + timedelta(days=91))
    (new,) = say(users, ANN, "He is grey.")
    assert names(users, ANN) == {new.name}
    with users.using(ANN) as memory:
        assert memory.log.by_id(old.id) is None and memory.note([("user", old.text)]) == []
        assert not any("Quixotic" in one.text for one in memory.session.ask("Quixotic?", max_new_tokens=1).recalled)
    assert not holding(b"Quixotic", tmp_path)
    users.close()
    assert not holding(b"Quixotic", tmp_path)


def holding(text, directory):
    """Files that hold some bytes."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path.name for path in files if text in path.read_bytes()]


def test_one_server_owns_the_data(tmp_path):
    program = "import sys; from pathlib import Path; from ltm.serve.own_directory import OwnDirectory\n"
    program += "with OwnDirectory(Path(sys.argv[1])): print('mine')"
    with OwnDirectory(tmp_path / "data"):
        second = subprocess.run([sys.executable, "-c", program, tmp_path / "data"], capture_output=True, text=True)
        assert second.returncode and "belongs to a running server (process " in second.stderr.splitlines()[-1]
    third = subprocess.run([sys.executable, "-c", program, tmp_path / "data"], capture_output=True, text=True)
    assert third.stdout == "mine\n", third.stderr


def test_models_that_can_be_served(backbone, longmem, text_model):
    off = ServedModel(backbone)
    assert (off.name, off.memory, longmem.memory, text_model.memory) == ("tiny-llama", "off", "longmem", "text")
    assert longmem.place == "longmem-tiny-llama" and not off.has_memory
    with pytest.raises(LtmError, match="keeps no bank; serve one that does"):
        ServedModel(backbone, create_method("window", backbone))


def test_a_turn_that_cannot_be_read_keeps_no_other_away(model, keys, tmp_path, monkeypatch):
    told = []
    users = Users(tmp_path / "data", model, keys, budget=10**9, told_failure=told.append)
    with users.using(ANN) as memory:
        memory.note([("user", "Bad."), ("user", "Good.")])
        keep = memory.session.keep

        def picky(turns, name):
            if turns[0]["content"] == "Bad.":
                raise LtmError("too long")
            keep(turns, name)

        monkeypatch.setattr(memory.session, "keep", picky)
    assert len(names(users, ANN)) == 1 and len(names(users, ANN)) == 1 and len(told) == 1
    users.close()
    assert len(names(users, ANN)) == 2  # opened again, it is tried again
    users.close()
