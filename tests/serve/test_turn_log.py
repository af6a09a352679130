"""What of a history is written: what is new, once, with its role; what was forgotten does not come back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from ltm.serve.turn_log import TURNS, TurnLog, chain, places, said

NOW = datetime(2026, 11, 27, 9, 5, tzinfo=timezone.utc)
HISTORY = [("user", "My cat is Tom."), ("assistant", "A nice name."), ("user", "Who is Tom?")]


@pytest.fixture
def log(tmp_path):
    made = TurnLog(tmp_path)
    yield made
    made.close()


def texts(turns):
    return [turn.text for turn in turns]


def test_only_the_new_end_of_a_history_is_written(log):
    assert texts(log.add(HISTORY[:1], NOW, answer="A nice name.")) == ["My cat is Tom.", "A nice name."]
    written = log.add(HISTORY, NOW, answer="Your cat.")
    assert [(turn.role, turn.text) for turn in written] == [("user", "Who is Tom?"), ("assistant", "Your cat.")]
    assert log.add(HISTORY, NOW, answer="Your cat.") == [] and log.num_turns == 4


def test_an_answer_asked_for_again_writes_nothing_until_the_history_goes_on_from_it(log):
    log.add(HISTORY[:1], NOW, answer="A nice name.")
    assert log.add(HISTORY[:1], NOW, answer="Hello Tom.") == []
    branch = [HISTORY[0], ("assistant", "Hello Tom."), ("user", "He is grey.")]
    assert texts(log.add(branch, NOW, answer="Grey.")) == ["Hello Tom.", "He is grey.", "Grey."]


def test_an_edited_turn_is_a_new_branch(log):
    log.add(HISTORY, NOW, answer="Your cat.")
    edited = [HISTORY[0], HISTORY[1], ("user", "What is Tom?")]
    assert texts(log.add(edited, NOW, answer="A cat.")) == ["What is Tom?", "A cat."]


def test_blanks_at_the_ends_do_not_count_but_the_text_is_verbatim(log):
    log.add([("user", " Hi. \n")], NOW, answer="Yes?\n")
    assert texts(log.waiting("m")) == [" Hi. \n", "Yes?\n"]
    assert log.add([("user", "Hi."), ("assistant", "Yes?")], NOW) == []


def test_conversations_with_names_share_no_turn(log):
    for session in (None, "a", "b", ""):
        assert len(log.add(HISTORY[:1], NOW, session)) == 1
        assert log.add(HISTORY[:1], NOW, session) == []


def test_hashes_part_roles_texts_and_order():
    ways = [[("user", "a"), ("user", "b")], [("user", "a\0user\0b")], [("assistant", "a"), ("user", "b")]]
    ways += [[("user", "ab")], [("user", "b"), ("user", "a")]]
    hashes = [own for way in ways for _, own in chain(way)]
    assert len(set(hashes)) == len(hashes) == 8


def test_only_what_somebody_said():
    messages = [
        {"role": "system", "content": "Today is Friday."},
        {"role": "user", "content": "From my notes: Tom is grey.", "recalled": True},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Hi"},
    ]
    assert said(messages) == [("user", "Hi")]


def test_what_a_memory_holds_is_noted_for_each_memory_and_stays(log, tmp_path):
    first, second = log.add(HISTORY[:2], NOW)
    log.note_held(first, "longmem")
    log.close()
    again = TurnLog(tmp_path)
    assert again.waiting("longmem") == [second] and again.waiting("rag") == [first, second]
    again.close()


def test_what_was_forgotten_is_gone_from_the_file_and_does_not_come_back(log, tmp_path):
    old, _ = log.add(HISTORY[:2], NOW)
    log.add(HISTORY, NOW + timedelta(days=2))
    assert texts(log.before(NOW + timedelta(days=1))) == texts([old, log.waiting("m")[1]])
    log.forget(log.before(NOW + timedelta(days=1)))
    files = [file for file in tmp_path.iterdir() if file.name.startswith(TURNS)]
    assert files and not any(b"cat is Tom" in file.read_bytes() for file in files)
    assert log.by_id(old.id) is None and log.num_turns == 1 and texts(log.waiting("m")) == ["Who is Tom?"]
    assert log.add(HISTORY, NOW) == []


def test_names_say_who_and_when(log):
    (turn,) = log.add(HISTORY[:1], NOW)
    assert turn.name == f"user 2026-11-27 09:05 {turn.hash[:8]}" and turn.id == f"mem_{turn.hash[:16]}"
    assert log.by_id(turn.id) == log.by_name(turn.name) == turn
    assert [log.by_id(wrong) for wrong in ("mem_0", "mem_", "", turn.id[:9], turn.hash[:16])] == [None] * 5
    assert [log.by_name(wrong) for wrong in ("", turn.hash[:8], f"assistant{turn.name[4:]}")] == [None] * 3


def test_what_follows_something_that_is_gone_is_known_by_its_place(log):
    messages = [{"role": "system", "content": "Be kind."}, *({"role": r, "content": text} for r, text in HISTORY)]
    log.add(HISTORY, NOW, "conv")
    found = places(messages, "conv")
    assert found == [None, *(parent for parent, _ in chain(HISTORY, "conv"))]
    assert places(messages[2:], "conv", found[2]) == found[2:]
    assert log.add(HISTORY[1:], NOW, "conv", after=found[2]) == []
    assert (
        texts(log.add(HISTORY[1:], NOW, "conv")) == texts(log.of_session("conv"))[3:] == ["A nice name.", "Who is Tom?"]
    )
