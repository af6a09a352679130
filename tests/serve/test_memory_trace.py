"""POST /v1/memory/trace: what each memory did to each word, against the definition, and nobody else's memories."""

from __future__ import annotations

import openai
import pytest
import torch

from ltm.data.passages import Passage
from ltm.methods import create_method
from ltm.serve.memory_trace import scored_again
from ltm.tasks.scoring import score_continuations, text_tokens
from ltm.text.asking import Asking, asked_ids

TEXTS = ["My cat is called Tom.", "The barn is red.", "Rain fell in Oslo."]


@pytest.fixture
def running(serve, model):
    return serve(model)


def add(client, text):
    return client.post("/memory/items", cast_to=dict, body={"text": text})["id"]


def asked(answer="Tom"):
    return [{"role": "user", "content": "Who is my cat?"}, {"role": "assistant", "content": answer}]


def trace(client, **body):
    return client.post("/memory/trace", cast_to=dict, body=body)


def test_it_is_the_difference_that_each_memory_makes(model):
    shown = [Passage(str(n), None, None, text, 1.0) for n, text in enumerate(TEXTS)]
    made = scored_again(model, asked("Tom, my cat."), shown)
    method, tokenizer = create_method("full", model.backbone), model.tokenizer
    tokens = text_tokens(tokenizer, "Tom, my cat.")

    def score(texts):
        passages = [Passage(None, None, None, text, 1.0) for text in texts]
        prompt = asked_ids(tokenizer, "Who is my cat?", passages, Asking(instruction=""))
        (scored,) = score_continuations(method, [prompt[0].tolist()], [[tokens]])
        return scored.log_likelihoods[0]

    expected = {str(n): score(TEXTS) - score(TEXTS[:n] + TEXTS[n + 1 :]) for n in range(3)}
    found = {one.passage.document: one.nats for one in made.moved}
    assert len({round(nats, 3) for nats in expected.values()}) == 3  # they differ
    torch.testing.assert_close([found[n] for n in "012"], [expected[n] for n in "012"], atol=2e-3, rtol=1e-3)  # float32
    assert "".join(made.words) == "Tom, my cat." and [one.nats for one in made.moved] == sorted(found.values())[::-1]


def test_over_the_wire_and_the_next_answer_is_the_same(me):
    ids = [add(me, text) for text in TEXTS]
    ask = {"model": "tiny-llama", "messages": asked()[:1], "extra_body": {"memory": {"write": False}}}
    before = me.chat.completions.create(**ask).choices[0].message.content
    told = trace(me, messages=[{"role": "system", "content": "Be brief."}, *asked()], items=[*ids, ids[0]])
    assert told["object"] == "memory.trace" and "".join(told["words"]) == "Tom"
    assert sorted(one["id"] for one in told["items"]) == sorted(ids)
    assert all(0 <= token < len(told["words"]) for one in told["items"] for token in one["tokens"])
    assert me.chat.completions.create(**ask).choices[0].message.content == before
    assert trace(me, messages=asked(""), items=ids)["items"] == []  # nothing moves an answer without words


def test_nobody_elses(running, keys, me):
    item = add(me, TEXTS[0])
    bob = running.client(keys.create("bobs", user="bob")[1])
    with pytest.raises(openai.NotFoundError, match="there is no item"):
        trace(bob, messages=asked(), items=[item])
    with pytest.raises(openai.PermissionDeniedError):
        trace(bob, messages=asked(), items=[item], user="me")
    with pytest.raises(openai.NotFoundError):
        trace(running.client(keys.create("gate")[1]), messages=asked(), items=[item])
    with pytest.raises(openai.PermissionDeniedError):
        trace(running.client(keys.create("w", user="me", scopes=["memory:write"])[1]), messages=asked(), items=[item])
    with pytest.raises(openai.AuthenticationError):
        trace(running.client("ltm_none"), messages=asked(), items=[item])


def test_what_cannot_be(me, serve, backbone, keys):
    item = add(me, TEXTS[0])
    wrong = [{}, {"messages": asked()}, {"messages": asked(), "items": []}, {"messages": asked()[:1], "items": [item]}]
    wrong += [{"messages": asked()[::-1], "items": [item]}, {"messages": asked(), "items": [item] * 9}]
    for body in [*wrong, {"messages": asked("word " * 5000), "items": [item]}]:
        with pytest.raises(openai.BadRequestError):
            trace(me, **body)
