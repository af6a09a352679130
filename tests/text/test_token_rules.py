"""Rules for single tokens of an answer, on what is drawn from: after a memory's share in it."""

from __future__ import annotations

import pytest
import torch

from ltm.backbone.tiny import byte_tokenizer
from ltm.methods import create_method
from ltm.text.session import Session
from ltm.text.token_rules import Penalties, TokenRule, TokenScores

LONGMEM = {"reduction_factor": 2, "chunk_size": 4, "retrieved_tokens": 8, "segment_size": 32, "start": "paper"}
LONGMEM |= {"memory_size": 4096, "local_window": 256, "pointer_tokens": 64}


class Only(TokenRule):
    """Lets some tokens through, and has enough after so many."""

    def __init__(self, tokens, most):
        self.tokens, self.most, self.heard = tokens, most, []

    def shape(self, scores):
        kept = torch.full_like(scores, -torch.inf)
        kept[self.tokens] = scores[self.tokens]
        return kept

    def take(self, token):
        self.heard.append(token)
        return len(self.heard) == self.most


@pytest.fixture
def session(tiny_backbone):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}\n{% endfor %}"
    made = Session(create_method("longmem", tiny_backbone("tiny-llama"), **LONGMEM), tokenizer, encoder=None)
    made.read("The cat of Ann is called Tom, and he is grey. " * 20, "cats")
    return made


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_rule_holds_with_a_memory_attached(session, temperature):
    free = session.ask("Who is Tom?", max_new_tokens=20)
    assert set(free.token_ids) - set(b"ab")
    rule = Only([97, 98], 7)
    made = session.ask("Who is Tom?", max_new_tokens=20, temperature=temperature, seed=1, rules=[rule])
    assert made.token_ids == rule.heard and len(rule.heard) == 7 and set(rule.heard) <= set(b"ab")
    assert made.ended and made.text == bytes(made.token_ids).decode()


def test_scores_are_those_that_tokens_were_drawn_by(session):
    scores, ascii_alone = TokenScores(3), Only(list(b" abcdefghijklmnopqrstuvwxyz"), 6)
    made = session.ask("Who is Tom?", max_new_tokens=6, recall="memory", rules=[scores, ascii_alone])
    assert [score.token for score in scores.scores] == made.token_ids
    for score in scores.scores:
        (_, first), (_, second), (_, third) = score.likeliest
        assert first >= second >= third and first >= score.log_probability
    total = session.answer_likelihoods("Who is Tom?", [made.text], recall="memory")[0]
    assert total == pytest.approx(sum(score.log_probability for score in scores.scores), abs=1e-3)  # float32 sums
    session.reset()
    without = TokenScores()
    session.ask("Who is Tom?", max_new_tokens=6, recall="off", rules=[without])
    assert without.scores[0].log_probability != pytest.approx(scores.scores[0].log_probability, abs=1e-3)


def test_penalties_and_biases(session):
    usual = session.ask("Who is Tom?", max_new_tokens=12).token_ids
    banned = session.ask("Who is Tom?", max_new_tokens=12, rules=[Penalties(bias={usual[0]: -100})]).token_ids
    assert usual[0] not in banned
    forced = session.ask("Who is Tom?", max_new_tokens=5, rules=[Penalties(bias={65: 100})]).token_ids
    assert forced == [65] * 5
    spread = session.ask("Who is Tom?", max_new_tokens=12, rules=[Penalties(presence=2, frequency=2)]).token_ids
    assert len(set(spread)) > len(set(usual))


def test_a_bias_of_a_token_that_is_none_changes_nothing():
    scores = torch.arange(4.0)
    assert torch.equal(Penalties(bias={99: 5.0}).shape(scores), scores)
