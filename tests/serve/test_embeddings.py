"""/v1/embeddings by the official client."""

from __future__ import annotations

import base64
import math

import numpy as np
import openai
import pytest

from ltm.serve.embedder import PooledStates


@pytest.fixture
def me(serve, model, keys):
    return serve(model).client(keys.create("mine", user="me")[1])


def vectors(client, given, **options):
    made = client.embeddings.create(**{"model": "tiny-llama", "input": given, **options})
    assert [one.index for one in made.data] == list(range(len(made.data)))
    return [one.embedding for one in made.data]


def test_vectors(me, model):
    made = me.embeddings.create(model="tiny-llama", input=["a cat", "two cats", "tax"])
    assert made.model == "tiny-llama" and len(made.data) == 3  # the client asks for base64 and decodes it
    assert made.usage.prompt_tokens == made.usage.total_tokens == sum(map(len, ("a cat", "two cats", "tax")))
    expected = model.embedder.embed(["a cat", "two cats", "tax"]).numpy()
    np.testing.assert_allclose([one.embedding for one in made.data], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    assert vectors(me, "a cat")[0] == pytest.approx(list(expected[0]), abs=1e-5)


def test_both_encodings_and_dimensions(me):
    (plain,), (short,) = vectors(me, "a cat", encoding_format="float"), vectors(me, "a cat", dimensions=60)
    made = me.embeddings.create(model="tiny-llama", input="a cat", encoding_format="base64").data[0].embedding
    assert list(np.frombuffer(base64.b64decode(made), dtype="<f4")) == pytest.approx(plain)
    scale = math.sqrt(sum(value**2 for value in plain[:60]))
    assert short == pytest.approx([value / scale for value in plain[:60]], abs=1e-5) and len(short) == 60
    with pytest.raises(openai.BadRequestError) as caught:
        vectors(me, "a cat", dimensions=100_000)
    assert caught.value.param == "dimensions"


def test_tokens_are_those_of_the_encoder(serve, longmem, text_model, keys):
    me = serve(longmem).client(keys.create("mine", user="me")[1])
    assert isinstance(longmem.embedder, PooledStates)
    ids = [longmem.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a cat", "tax")]
    assert vectors(me, ids) == vectors(me, ["a cat", "tax"]) and vectors(me, ids[0]) == vectors(me, "a cat")
    with pytest.raises(openai.BadRequestError, match="none of the 259"):
        vectors(me, [100_000])


def test_inputs_that_are_none(serve, text_model, keys):
    me = serve(text_model).client(keys.create("mine", user="me")[1])
    for given in ("", " ", [], [""], [[]], ["a", 3], {"a": 1}, [[1], "a"], None, ["a"] * 2049):
        with pytest.raises(openai.BadRequestError) as caught:
            me.post("/embeddings", body={"input": given, "model": "tiny-llama"}, cast_to=object)
        assert caught.value.param.startswith("input"), given


def test_who_may_and_which_model(serve, text_model, keys):
    running = serve(text_model)
    with pytest.raises(openai.PermissionDeniedError):
        vectors(running.client(keys.create("none", user="me", scopes=["memory:read"])[1]), "a cat")
    me = running.client(keys.create("mine", user="me")[1])
    with pytest.raises(openai.NotFoundError):
        vectors(me, "a cat", model="zork")
    assert len(vectors(me, "a cat", model="hash")[0]) == 512
