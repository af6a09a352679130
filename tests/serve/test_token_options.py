"""Log-probabilities, penalties and biases, by the official client."""

from __future__ import annotations

import math

import pytest

HI = [{"role": "user", "content": "My cat is Tom."}]
APART = {"extra_body": {"memory": {"write": False}}}


@pytest.fixture
def me(serve, model, keys):
    return serve(model).client(keys.create("mine", user="me")[1])


def ask(client, **options):
    return client.chat.completions.create(
        **{"model": "tiny-llama", "messages": HI, "max_tokens": 12, **APART, **options}
    )


def test_log_probabilities(me):
    plain = ask(me).choices[0]
    made = ask(me, logprobs=True, top_logprobs=3).choices[0]
    scores = made.logprobs.content
    assert plain.logprobs is None and made.message.content == plain.message.content
    assert b"".join(bytes(score.bytes) for score in scores).decode("utf-8", "replace") == made.message.content
    for score in scores:
        assert [one.logprob for one in score.top_logprobs] == sorted(
            (o.logprob for o in score.top_logprobs), reverse=True
        )
        assert score.top_logprobs[0].token == score.token and len(score.top_logprobs) == 3  # greedy
        assert sum(math.exp(one.logprob) for one in score.top_logprobs) <= 1 + 1e-6
    streamed = [chunk.choices[0] for chunk in ask(me, logprobs=True, top_logprobs=3, stream=True)]
    assert [score for chunk in streamed if chunk.logprobs for score in chunk.logprobs.content] == scores
    assert ask(me, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_what_is_cut_at_a_stop_string_has_scores_for_what_is_shown(me):
    whole = ask(me, max_tokens=40).choices[0].message.content
    stop = next(character for character in whole if character.isascii() and character != whole[0])
    made = ask(me, max_tokens=40, stop=stop, logprobs=True).choices[0]
    said = b"".join(bytes(score.bytes) for score in made.logprobs.content).decode("utf-8", "replace")
    assert said.startswith(made.message.content)  # to the end of the word in which it was cut


def test_penalties_and_biases(me):
    first = ask(me, logprobs=True).choices[0].logprobs.content[0]
    (token,) = first.bytes  # a byte is a token of this model, by its own number or another
    assert ask(me, logit_bias={"65": 100}, logprobs=True).choices[0].message.content == "A" * 12
    spread = ask(me, presence_penalty=2, frequency_penalty=2, logit_bias={"65": 8}, max_tokens=30).choices[0]
    tight = ask(me, logit_bias={"65": 8}, max_tokens=30).choices[0]
    assert spread.message.content.count("A") < tight.message.content.count("A") and token in range(256)


def test_responses(me):
    options = {"model": "tiny-llama", "input": "My cat is Tom.", "max_output_tokens": 6}
    made = me.responses.create(**options, include=["message.output_text.logprobs"], top_logprobs=2, **APART)
    scores = made.output[0].content[0].logprobs
    assert len(scores) == 6 and len(scores[0].top_logprobs) == 2
    events = list(me.responses.create(**options, include=["message.output_text.logprobs"], stream=True, **APART))
    told = [one for event in events if event.type == "response.output_text.delta" for one in event.logprobs]
    assert [one.token for one in told] == [one.token for one in scores]
    done = next(event for event in events if event.type == "response.output_text.done")
    assert [one.token for one in done.logprobs] == [one.token for one in scores]
    assert me.responses.create(**options, **APART).output[0].content[0].logprobs == []
