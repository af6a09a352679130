"""The page of an answer: it holds everything by itself, and no text that is shown can break out of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from ltm.data.passages import (
    AnswerTrace,
    Passage,
    SourceText,
    TokenUse,
    TracedToken,
    UsedSpan,
    find_passages,
    trace_tokens,
)
from ltm.text.answer import Answer
from ltm.text.moved import Moved
from ltm.text.trace_page import trace_page


def answer(traced: AnswerTrace) -> Answer:
    return Answer("a b", [1, 2], [], 3, True, 0.1, traced)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))


def test_tokens_and_passages_are_on_the_page():
    passage = Passage("moby", 10, 26, "Call me Ishmael.", 0.25)
    traced = AnswerTrace([passage], [TracedToken("Ish", 0.5, [TokenUse(0, 8, 15, 0.25)]), TracedToken("mael", 0.0, [])])
    data = data_of(trace_page("Who?", answer(traced)))
    assert data["tokens"] == [
        {"text": "Ish", "share": 0.5, "uses": [[0, 8, 15, 0.25]]},
        {"text": "mael", "share": 0.0, "uses": []},
    ]
    assert data["passages"][0] == {
        "document": "moby",
        "start": 10,
        "end": 26,
        "text": "Call me Ishmael.",
        "weight": 0.25,
    }


def test_what_stood_in_the_window_is_told_apart_from_attention():
    mat, roof = (Passage("letter", place, place + 9, text, 0.5) for place, text in ((0, "On a mat."), (9, "On a roof")))
    made = replace(answer(AnswerTrace(tokens=[TracedToken("a mat", 0.1, [])])), recalled=[roof, mat])
    moved = replace(made, moved=[Moved(mat, 2.25, ["a mat"], [0]), Moved(roof, -0.5, [], [])])
    data = data_of(trace_page("Where?", moved))
    assert [(one["text"], one["nats"], one["tokens"]) for one in data["window"]] == [
        ("On a mat.", 2.25, [0]),
        ("On a roof", -0.5, []),
    ]
    assert data["passages"] == []
    data = data_of(trace_page("Where?", made))
    assert [(one["text"], one["nats"], one["tokens"]) for one in data["window"]] == [
        ("On a roof", None, []),
        ("On a mat.", None, []),
    ]


def test_nothing_comes_from_outside_and_texts_stay_texts():
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">&amp;\u2028'
    traced = AnswerTrace([Passage(evil, None, None, evil, 1.0)], [TracedToken(evil, 1.0, [TokenUse(0, 0, 0, 1.0)])])
    (own,) = traced.passages
    page = trace_page(evil, replace(answer(traced), moved=[Moved(own, 1.0, [evil], [0])], recalled=[own]))
    assert data_of(page)["tokens"][0]["text"] == data_of(page)["passages"][0]["document"] == evil
    assert data_of(page)["window"][0]["text"] == evil
    assert page.count("<script") == page.count("</script") == 2 and "<img" not in page
    assert not re.search(r'(src|href)\s*=\s*["\']?(https?:|//)|@import|url\(', page)
    assert "default-src 'none'" in page


def test_a_passage_ends_where_what_may_be_shown_ends():
    text = "One is here, and two is there. Three goes away."
    source, whole = SourceText("numbers", text, [(0, 11), (17, 24)]), SourceText("numbers", text)
    used = [UsedSpan(4, 17, 20, "two", 0.3), UsedSpan(4, 0, 3, "One", 0.2)]
    assert [one.text for one in find_passages(used, {4: source})] == ["two is", "One is here"]
    assert [one.text for one in find_passages(used, {4: whole})] == ["One is here, and two is there."]


def test_tokens_point_into_their_passages():
    text = "One is here. Two is there. Three goes away."
    sources = {4: SourceText("numbers", text)}
    two = UsedSpan(4, 13, 16, "Two", 0.3)
    three, loose = UsedSpan(4, 27, 32, "Three", 0.2), UsedSpan(None, 0, 0, "loose", 0.1)
    traced = trace_tokens(["a", "b"], [[(two, 0.4)], [(loose, 0.5), (three, 0.3)]], [two, three, loose], sources)
    first, second = traced.tokens
    (use,) = first.uses
    assert traced.passages[use.passage].text[use.start : use.end] == "Two" and use.weight == 0.4
    assert [traced.passages[use.passage].document for use in second.uses] == [None, "numbers"]
    assert second.weight == 0.8
    placed = second.uses[1]
    assert traced.passages[placed.passage].text[placed.start : placed.end] == "Three"
