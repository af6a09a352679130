"""Prompts: earlier turns with and without a chat template, and templates that refuse."""

from __future__ import annotations

import pytest

from ltm.backbone.tiny import byte_tokenizer
from ltm.errors import LtmError
from ltm.methods import create_method
from ltm.text.generation import EndOfAnswer, question_ids
from ltm.text.session import Session

TURNS = [{"role": "user", "content": "My name is Ishmael."}, {"role": "assistant", "content": "Hello."}]


def test_without_a_chat_template_earlier_turns_are_joined_plainly():
    tokenizer = byte_tokenizer()
    ids = question_ids(tokenizer, "What is my name?", TURNS)
    assert tokenizer.decode(ids[0]) == "My name is Ishmael.\nHello.\nWhat is my name?"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{{ messages[0].content.nothing.more }}", "has no attribute 'nothing'"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
    ],
)
def test_what_a_template_refuses_is_told_in_its_words(template, words):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(LtmError, match=words) as caught:
        question_ids(tokenizer, "Which ship?", [{"role": "system", "content": "Be brief."}])
    assert "\n" not in str(caught.value) and "(system user)" in str(caught.value)


@pytest.mark.parametrize("turn", ["Hello.", {"role": "user"}, {"role": "user", "content": 7}, None])
def test_what_is_no_turn(turn):
    with pytest.raises(LtmError, match="is no turn of a conversation"):
        question_ids(byte_tokenizer(), "Which ship?", [turn])


@pytest.mark.parametrize("place", [0, 3])
def test_who_gets_the_text_may_end_the_answer_at_any_token(tiny_backbone, place):
    backbone = tiny_backbone("tiny-llama")
    session, heard = Session(create_method("full", backbone), encoder=None), []
    whole = session.ask("Who?", max_new_tokens=12, recall="off", on_text=heard.append)
    assert len(heard) == 13 and "".join(heard) == whole.text  # once a token, and once at the end
    seen = []

    def enough(text):
        seen.append(text)
        if len(seen) > place:
            raise EndOfAnswer

    cut = session.ask("Who?", max_new_tokens=12, recall="off", on_text=enough)
    assert cut.token_ids == whole.token_ids[: place + 1] and not cut.ended and seen == heard[: place + 1]
