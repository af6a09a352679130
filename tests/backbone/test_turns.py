"""Turns: what is attached works in the thread that made it alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ltm.backbone.turns import Turn


def test_a_hook_that_another_thread_meets_half_registered_does_nothing():
    turn, called = Turn(), []
    hook = turn.only(lambda module, args, kwargs: called.append(kwargs))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(hook, "module", ()).result() is None  # as torch calls it then
    hook("module", (), {"a": 1})
    assert called == [{"a": 1}]
