"""Operations on what is remembered: found at once, corrected and deleted everywhere."""

from __future__ import annotations

import hashlib
import shutil
from datetime import timedelta

import pytest
from test_users import ANN, BOB, holding

from ltm.errors import LtmError
from ltm.serve import user_memory as user_memory_module
from ltm.serve.errors import ApiError
from ltm.serve.keys import stamp, utc_now
from ltm.serve.memory_items import MemoryItems
from ltm.serve.probe import probe
from ltm.serve.users import Users


@pytest.fixture
def items(users):
    with users.using(ANN) as memory:
        yield MemoryItems(memory)


def texts(found):
    return [one.text for one in found]


def test_what_is_added_is_found_at_once_and_once(items):
    cat, other = items.add("My cat is called Tom."), items.add("The office opens at nine.")
    assert items.add("My cat is called Tom.") == cat and items.memory.num_turns == 2
    (best, *_) = items.search("cat Tom", k=2)
    assert (best.id, best.text, best.source, best.time) == (cat.id, cat.text, "user", cat.time) and best.score > 0
    assert best.content_sha256 == hashlib.sha256(b"My cat is called Tom.").hexdigest()
    assert texts(items.search("office nine", k=1)) == [other.text]
    long = items.add("Tomatoes grow in May. " * 200 + "Quixotic.")
    assert [one.id for one in items.search("tomatoes", k=50)].count(long.id) == 1


def test_search_between_times(items, monkeypatch):
    now = utc_now()
    for days in range(3):
        monkeypatch.setattr(user_memory_module, "utc_now", lambda days=days: now + timedelta(days=days))
        items.add(f"Note of the cat, day {days}.")
    middle = stamp(now + timedelta(days=1))
    assert texts(items.search("cat", since=middle, until=stamp(now + timedelta(days=2)))) == ["Note of the cat, day 1."]
    assert len(items.search("cat", since=middle)) == 2 and len(items.search("cat", until=middle)) == 1
    assert len(items.search("cat")) == 3 and len(
        items.search("cat", since=(now - timedelta(days=1)).date().isoformat())
    )
    with pytest.raises(ApiError, match="since='yesterday' is no time"):
        items.search("cat", since="yesterday")


def test_pages(items):
    ids = [items.add(f"Note {n}.").id for n in range(5)]
    first = items.page(limit=2)
    second = items.page(after=first.items[-1].id, limit=2)
    items.correct(second.items[-1].id, "Another note.")
    third = items.page(after=second.items[-1].id, limit=2)
    assert [one.id for page in (first, second, third) for one in page.items] == ids
    assert [page.has_more for page in (first, second, third)] == [True, True, False]
    assert [one.id for one in items.page(order="desc", limit=3).items] == ids[:1:-1]
    items.delete(ids[1])
    assert [one.id for one in items.page(after=ids[1]).items] == ids[2:]
    for wrong in ({"after": "mem_0"}, {"limit": 0}, {"limit": 101}, {"order": "up"}):
        with pytest.raises(ApiError):
            items.page(**wrong)


def test_an_item_is_read_with_the_turns_around_it(items):
    said = [("user", f"Turn {n}.") for n in range(7)]
    turns = items.memory.note(said, answer="Well.")
    read = items.one(turns[3].id)
    assert read.item.text == "Turn 3." and texts(read.turns) == [f"Turn {n}." for n in (1, 2, 3, 4, 5)]
    items.correct(turns[2].id, "Turn two.")
    assert texts(items.one(turns[3].id).turns) == ["Turn 1.", "Turn two.", "Turn 3.", "Turn 4.", "Turn 5."]
    assert texts(items.one(turns[2].id).turns)[2] == "Turn two."
    assert texts(items.one(turns[-1].id).turns) == ["Turn 5.", "Turn 6.", "Well."]
    alone = items.add("By itself.")
    assert texts(items.one(alone.id).turns) == ["By itself."]


def test_a_correction_is_found_and_what_it_corrects_is_not(users, items):
    (turn,) = items.memory.note([("user", "My sister lives in Wymondham.")])
    items.memory.take_in()
    old = items.one(turn.id).item
    new = items.correct(old.id, "My sister lives in Norwich.", "she moved", old.content_sha256)
    assert new.id == old.id and new.content_sha256 != old.content_sha256
    assert texts(items.search("sister Wymondham")) == ["My sister lives in Norwich."]
    assert not any("Wymondham" in passage.text for passage in items.memory.session.search("Wymondham", 9))
    versions = items.history(old.id)
    assert texts(versions) == [old.text, new.text] and [one.reason for one in versions] == [None, "she moved"]
    assert [one.replaced is None for one in versions] == [False, True] and texts(items.page().items) == [new.text]
    assert items.correct(old.id, new.text, content_sha256=old.content_sha256) == new  # a client's second try
    with pytest.raises(ApiError, match="has another text by now") as failed:
        items.correct(old.id, "My sister lives in Leeds.", content_sha256=old.content_sha256)
    assert failed.value.status == 409 and failed.value.headers["x-should-retry"] == "false"
    assert items.memory.note([("user", "My sister lives in Wymondham.")]) == []  # a client sends its history again


def test_a_correction_of_an_answer_is_the_users(items):
    _, answer = items.memory.note([("user", "Who is Tom?")], answer="Tom is a quixotic dog.")
    assert texts(items.search("quixotic dog", k=1)) != ["Tom is a quixotic dog."]  # an answer, not taken in
    items.correct(answer.id, "Tom is a quixotic cat.")
    assert [(one.text, one.source) for one in items.search("quixotic", k=1)] == [("Tom is a quixotic cat.", "user")]
    assert [one.source for one in items.history(answer.id)] == ["assistant", "user"]


def test_what_is_deleted_is_nowhere(users, items, tmp_path):
    keep = items.add("The office opens at nine.")
    item = items.add("Quixotic glyphs of Wymondham.")
    items.correct(item.id, "Quixotic glyphs of Norwich.", "moved by Quixotic")
    assert items.search("quixotic glyphs") and holding(b"Quixotic", tmp_path)
    before = probe(items.memory, items.log.versions(items.log.by_id(item.id)))
    assert (before.documents, before.found, before.files) == (1, 1, None)  # the log still says it
    receipt = items.delete(item.id)
    assert (receipt.id, receipt.items, receipt.versions) == (item.id, 1, 2)
    assert (receipt.probe.documents, receipt.probe.found, receipt.probe.files) == (0, 0, 0)
    assert not holding(b"Quixotic", tmp_path) and texts(items.page().items) == [keep.text]
    for call in (items.one, items.history, items.delete, lambda item: items.correct(item, "x")):
        with pytest.raises(ApiError) as missing:
            call(item.id)
        assert (missing.value.status, missing.value.code) == (404, "memory_not_found")
    assert items.add("Quixotic glyphs of Wymondham.").id != item.id  # whoever says it anew means it


def test_a_probe_tells_what_lies_in_files(items):
    items.add("Quixotic glyphs of Wymondham.")
    turns = items.log.all()
    (items.memory.directory / "left").write_text("...Quixotic glyphs of Wymondham...")
    assert items.delete(turns[0].id).probe.files == 1
    assert items.delete(items.add("Tom").id).probe.files is None


def test_everything_is_deleted(users, items, tmp_path):
    for n in range(3):
        items.add(f"Quixotic note {n}.")
    items.correct(items.page().items[0].id, "Quixotic note zero.")
    with users.using(BOB) as bob:
        MemoryItems(bob).add("Bobs own Quixotry.")
    receipt = items.delete_all()
    assert (receipt.items, receipt.versions, receipt.probe.found, receipt.probe.files) == (3, 4, 0, 0)
    assert not holding(b"Quixotic note", tmp_path) and items.page().items == items.search("quixotic") == []
    assert texts([items.add("A new note.")]) == texts(items.search("new note")) == ["A new note."]
    with users.using(BOB) as bob:
        assert texts(MemoryItems(bob).search("quixotry")) == ["Bobs own Quixotry."]


def test_a_kill_between_log_and_memory_leaves_nothing_to_find(users, monkeypatch):
    with users.using(ANN) as memory:
        items = MemoryItems(memory)
        gone, old = items.add("Quixotic glyphs."), items.add("My cat is Tom.")
        monkeypatch.setattr(memory, "_drop_outdated", lambda: None)  # killed when the log was written
        memory.forget(items.log.versions(items.log.by_id(gone.id)))
        memory.correct(items.log.by_id(old.id), "My cat is Tim.")
        assert memory.names == {turn.name for turn in items.log.outdated(memory.place)}
    users.close()
    with users.using(ANN) as memory:
        again = MemoryItems(memory)
        assert texts(again.search("quixotic glyphs cat", k=9)) == ["My cat is Tim."]
        assert len(memory.session.documents) == 1


def test_what_is_deleted_leaves_other_models_memories_too(keys, longmem, text_model, tmp_path):
    for served in (longmem, text_model, longmem):
        users = Users(tmp_path / "data", served, keys, budget=10**9)
        with users.using(ANN) as memory:
            items = MemoryItems(memory)
            if served is text_model:
                items.delete(items.page().items[0].id)
                assert not holding(b"Quixotic", tmp_path)
            elif items.page().items:
                assert texts(items.search("glyphs office")) == ["The office opens at nine."]
            else:
                items.add("Quixotic glyphs."), items.add("The office opens at nine.")
        users.close()
    shutil.rmtree(memory.directory / memory.place)  # a memory that is gone is made anew from the log
    users = Users(tmp_path / "data", longmem, keys, budget=10**9)
    with users.using(ANN) as memory:
        assert texts(MemoryItems(memory).search("office")) == ["The office opens at nine."]
    users.close()


def test_what_cannot_be_an_item(items):
    for text, match in (("  ", "text is empty"), ("x" * 100_001, "give 100,000 at most"), ("a\0b", "NUL")):
        with pytest.raises((ApiError, LtmError), match=match):
            items.add(text)
    for k in (0, 51):
        with pytest.raises(ApiError, match="give 1 to 50"):
            items.search("cat", k=k)
    assert items.memory.num_turns == 0
