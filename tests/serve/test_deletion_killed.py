"""A deletion that is killed at any of its steps is whole after the next start, or can be asked for again."""

from __future__ import annotations

from contextlib import closing

import pytest
from test_users import ANN, holding

from ltm.serve import user_memory as user_memory_module
from ltm.serve.errors import ApiError
from ltm.serve.keys import KeyStore
from ltm.serve.memory_items import MemoryItems
from ltm.serve.probe import Probe
from ltm.serve.response_store import Kept, ResponseStore
from ltm.serve.turn_log import TurnLog, places
from ltm.serve.user_memory import UserMemory
from ltm.serve.users import Users


class Killed(BaseException):
    pass


def filled(directory, model):
    """A memory with an item that is kept in a conversation, and another one; (its id, users, keys)."""
    keys = KeyStore(directory)
    users = Users(directory, model, keys, budget=10**9)
    said = [("user", "Tom is a quixotic cat."), ("user", "The office is green.")]
    with users.using(ANN) as memory:
        turn, _ = memory.note(said, "conv_1")
        memory.take_in()
    messages = [{"role": role, "content": text} for role, text in said]
    with users.responses(ANN, make=True) as store:
        store.database.run("INSERT INTO conversations VALUES ('conv_1', 5, '{}')")
        for number, (message, after) in enumerate(zip(messages, places(messages, "conv_1"), strict=True)):
            content = [{"type": "input_text", "text": message["content"]}]
            item = {"id": f"msg_{number}", "type": "message", "role": "user", "content": content}
            store.add_items("conv_1", [Kept(item, after)])
    return turn.id, users, keys


def steps(patch, model, left):
    """Let a deletion do so many of its steps, each of which is on the disk, and be killed at the next."""
    remaining = [left]

    def step(call):
        def counted(*arguments, **options):
            if remaining[0] == 0:
                raise Killed
            remaining[0] -= 1
            return call(*arguments, **options)

        return counted

    session = type(model.plain)
    for owner, name in (
        (ResponseStore, "delete_items"),
        (ResponseStore, "delete_all"),
        (TurnLog, "forget"),
        (TurnLog, "note_dropped"),
        (session, "delete"),
        (session, "save"),
        (user_memory_module.os, "replace"),
        (user_memory_module.shutil, "rmtree"),
        (UserMemory, "_open_session"),
    ):
        patch.setattr(owner, name, step(getattr(owner, name)))


@pytest.mark.parametrize("everything", [False, True])
def test_killed_at_each_step(everything, model, tmp_path, monkeypatch):
    outcomes = set()
    for number in range(40):
        directory = tmp_path / str(number)
        item, users, keys = filled(directory, model)
        users.close()
        memory = UserMemory(users.directory_of(ANN), model)
        with monkeypatch.context() as patch:
            steps(patch, model, number)
            try:
                items = MemoryItems(memory)
                items.delete_all() if everything else items.delete(item)
                done = True
            except Killed:
                done = False
        memory.close()
        with closing(Users(directory, model, keys, budget=10**9)) as again, again.using(ANN) as memory:
            items = MemoryItems(memory)
            if is_there := memory.log.by_id(item) is not None:
                assert not done and items.one(item).item.text == "Tom is a quixotic cat."
                assert items.search("quixotic cat")[0].id == item  # whole, and asked for again
                receipt = items.delete_all() if everything else items.delete(item)
                assert receipt.probe == Probe(0, 0, 0, 0)
            with pytest.raises(ApiError):
                items.one(item)
            assert not holding(b"quixotic", directory) and item not in [one.id for one in items.search("quixotic cat")]
            assert len(items.page().items) == (0 if everything else 1)
        keys.close()
        outcomes.add((is_there, done))
        if done:
            break
    assert {(True, False), (False, False), (False, True)} <= outcomes and number > 4
