"""Stop strings, however the text is cut into pieces."""

from __future__ import annotations

import pytest

from ltm.serve.stops import StopFilter


@pytest.mark.parametrize(
    ("text", "stops", "shown", "found"),
    [
        ("one two three", ["two"], "one ", "two"),
        ("one two three", ["three", "two"], "one ", "two"),
        ("aaab", ["aab"], "a", "aab"),
        ("abcabd", ["abd"], "abc", "abd"),
        ("one tw", ["two"], "one tw", None),
        ("one", [], "one", None),
        ("one", [""], "one", None),
        ("x\n\ny", ["\n\n", "y"], "x", "\n\n"),
        ("naïve 🙂 end", ["🙂"], "naïve ", "🙂"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_same_in_any_pieces(text, stops, shown, found, size):
    stopping = StopFilter(stops)
    pieces = [stopping.push(text[start : start + size]) for start in range(0, len(text), size)]
    assert ("".join(pieces) + stopping.finish(), stopping.found) == (shown, found)


def test_nothing_is_held_back_that_no_stop_begins_with():
    stopping = StopFilter(["END"])
    assert stopping.push("one") == "one" and stopping.push(" E") == " " and stopping.push("x") == "Ex"
