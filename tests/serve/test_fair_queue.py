"""Turns by user, within a bound."""

from __future__ import annotations

from threading import Thread

import pytest

from ltm.serve.fair_queue import FairQueue, QueueFull


def test_who_asks_much_waits_for_themselves():
    queue = FairQueue(100)
    for n in range(5):
        queue.put("greedy", f"g{n}")
    assert queue.take() == "g0"
    for user in "ab":
        queue.put(user, user)
    assert [queue.take() for _ in range(len(queue))] == ["g1", "a", "b", "g2", "g3", "g4"]


def test_a_full_queue_refuses_but_for_what_must_not_be_lost():
    queue = FairQueue(2)
    queue.put("a", 1), queue.put("b", 2)
    with pytest.raises(QueueFull):
        queue.put("c", 3)
    queue.put("a", 4, beyond=True)
    assert [queue.take() for _ in range(3)] == [1, 2, 4] and len(queue) == 0


def test_whoever_waits_is_woken_by_an_item_and_by_the_end():
    queue, got = FairQueue(2), []
    thread = Thread(target=lambda: got.extend([queue.take(), queue.take()]))
    thread.start()
    queue.put("a", 1)
    while len(queue):
        pass
    assert queue.close() == []
    thread.join(5)
    assert got == [1, None]
    with pytest.raises(QueueFull):
        queue.put("a", 2)


def test_the_end_gives_back_what_was_waiting():
    queue = FairQueue(9)
    queue.put("a", 1), queue.put("b", 2), queue.put("a", 3)
    assert sorted(queue.close()) == [1, 2, 3] and queue.take() is None
