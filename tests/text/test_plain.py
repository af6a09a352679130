"""Questions to models without a chat template."""

from __future__ import annotations

import pytest
import torch

from ltm.backbone import load_backbone
from ltm.methods import create_method
from ltm.text.asking import Asking, asked_ids
from ltm.text.plain import line_ends, plain_question
from ltm.text.session import Session

LINE_END = ord("\n")


@pytest.fixture
def session():
    return Session(create_method("window", load_backbone("tiny-llama"), local_window=512), encoder=None)


@pytest.fixture
def eager(session, monkeypatch):
    """A session whose model likes a line end best, always, and "a" next."""
    head = session.method.backbone.model.lm_head

    def forward(states):
        logits = torch.zeros(*states.shape[:-1], head.out_features)
        logits[..., LINE_END], logits[..., ord("a")] = 10.0, 9.0
        return logits

    monkeypatch.setattr(head, "forward", forward)
    return session


def test_a_base_model_is_asked_for_the_line_after_answer(session):
    tokenizer = session.tokenizer
    history = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
    text = tokenizer.decode(asked_ids(tokenizer, "Where?", [], Asking(instruction="Be short."), history)[0])
    assert text.endswith("Question: Who?\n\nAnswer: Ada.\n\nQuestion: Where? Be short.\nAnswer:")
    assert plain_question("Where?", "In Rome.", "", []) == "In Rome.\n\nQuestion: Where?\nAnswer:"


def test_tokens_that_hold_a_line_end_are_known(session):
    assert line_ends(session.tokenizer) == [LINE_END]


@pytest.mark.parametrize("many", [False, True])
def test_an_answer_ends_with_its_line_and_begins_with_none(eager, many):
    streamed = []
    if many:
        (answer,) = eager.ask_all(["Who?"], recall="off", max_new_tokens=4)
    else:
        answer = eager.ask("Who?", recall="off", max_new_tokens=4, on_text=streamed.append)
        assert "".join(streamed) == "a"
    assert answer.text == "a" and answer.ended


def test_a_chat_model_may_write_several_lines(eager):
    eager.tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
    assert eager.ask("Who?", recall="off", max_new_tokens=3).text == "\n\n\n"
