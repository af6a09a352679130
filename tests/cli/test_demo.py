"""The demo on a tiny model: every step runs, and what is scored was not read."""

from __future__ import annotations

import re

from ltm.cli.reference_text import ORDER, join_topics, language_reference


def test_the_reference_is_long_and_repeats_no_paragraph():
    text = language_reference()
    assert len(text) > 200_000 and "object.__new__" in text and "Compound statements" in text
    long = [" ".join(p.split()) for p in re.split(r"\n\s*\n", text) if len(" ".join(p.split())) >= 60]
    assert len(long) > 500 and len(set(long)) == len(long)
    assert len(set(ORDER)) == len(ORDER)


def test_repeated_paragraphs_are_dropped_where_they_come_again():
    long = "A paragraph that is long enough to be noticed when it comes twice."
    assert join_topics([f"One.\n\n{long}", f"Two.\n\n{long}\n\nOne."]) == f"One.\n\n{long}\n\nTwo.\n\nOne.\n"


def test_the_demo_measures_everything_it_prints(run, sidenet, monkeypatch):
    import ltm.cli.demo_steps

    monkeypatch.setattr(ltm.cli.demo_steps, "LEAST_TOKENS", 600)
    monkeypatch.setattr(ltm.cli.demo_steps, "HELD_OUT_TOKENS", 120)
    monkeypatch.setattr(ltm.cli.demo_steps, "NEW_TOKENS", 8)
    arguments = ("demo", "--backbone", "tiny-llama", "--sidenet", sidenet, "--tokens", 800, "--window", 32)
    shown = run(*arguments)
    assert shown.code == 0, shown.err
    for name in ("window", "longmem", "full", "recall", "what the document says", "measured in this run"):
        assert name in shown.out
    found = run(*arguments, "--json").json()
    assert 600 <= found["read_tokens"] <= 800 and found["bytes_per_token"] > 0
    assert {row["tokens"] for row in found["held_out"].values()} == {119}
    assert len({round(row["perplexity"], 3) for row in found["held_out"].values()}) == 3
    assert set(found["recall"]) == {"window", "longmem"} and found["passages"]
    assert found["continuations"]["text"].strip() and found["seconds"] > 0


def test_what_is_scored_was_not_read(sidenet, monkeypatch):
    import ltm.cli.demo_steps as demo
    from ltm.text.session import Session

    monkeypatch.setattr(demo, "LEAST_TOKENS", 600)
    session = Session.open(None, "tiny-llama", sidenet=sidenet, local_window=32, stride=32)
    made = demo.Demo(session, 800, demo.Figures("tiny-llama", 32))
    text = language_reference()
    held_out = session.tokenizer.decode(made.held_out)
    assert text.startswith(made.past) and text[len(made.past) :].startswith(held_out[:100])
    assert made.window.method_config.local_window == session.method.method_config.local_window
    assert made.window.method_config.stride == session.method.method_config.stride
    assert session.documents == [] and session.method.bank.num_tokens(0) == 0  # timing leaves nothing behind
