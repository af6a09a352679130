"""Prompts: earlier turns with and without a chat template, and templates that refuse."""

from __future__ import annotations

import pytest

from ltm.backbone.tiny import byte_tokenizer
from ltm.errors import LtmError
from ltm.text.generation import question_ids

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
