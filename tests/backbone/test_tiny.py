"""The tiny models: one of each family, seeded, with a tokenizer that takes any text."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm.backbone.tiny import TINY_ARCHITECTURES, build_tiny, byte_tokenizer

TOKENIZER = byte_tokenizer()
FAMILIES = {
    "tiny-llama": "LlamaForCausalLM",
    "tiny-mistral": "MistralForCausalLM",
    "tiny-qwen2": "Qwen2ForCausalLM",
    "tiny-qwen3": "Qwen3ForCausalLM",
    "tiny-gemma2": "Gemma2ForCausalLM",
    "tiny-gemma3": "Gemma3ForCausalLM",
    "tiny-phi3": "Phi3ForCausalLM",
    "tiny-gpt-neox": "GPTNeoXForCausalLM",
    "tiny-gpt2": "GPT2LMHeadModel",
    "tiny-opt": "OPTForCausalLM",
}


def test_every_family_has_a_tiny_model():
    assert {name: type(build_tiny(name)[0]).__name__ for name in TINY_ARCHITECTURES} == FAMILIES


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_a_seed_gives_the_same_model_and_another_seed_another(name):
    ids = TOKENIZER("a seed decides", return_tensors="pt").input_ids
    first, again, other = (build_tiny(name, seed=seed)[0](ids).logits for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_tiny("tiny-gpt2")
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_no_bias_or_norm_is_left_at_its_neutral_value(name):
    vectors = {n: p for n, p in build_tiny(name)[0].named_parameters() if p.ndim == 1}
    assert vectors
    assert [n for n, p in vectors.items() if (p == 0).all() or (p == 1).all()] == []


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_far_context_matters_to_a_tiny_model(name):
    """Else tests of memory on it would show nothing: the token 9 back changes the last logits."""
    model = build_tiny(name)[0]
    ids = torch.randint(0, 256, (1, 10), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 256
    with torch.no_grad():
        assert (model(ids).logits[0, -1] - model(changed).logits[0, -1]).abs().max() > 1e-3


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_the_byte_tokenizer_gives_back_any_text(text):
    text = text.replace("<pad>", "").replace("<bos>", "").replace("<eos>", "")
    ids = TOKENIZER(text).input_ids
    assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_special_tokens_agree_with_the_models():
    model, tokenizer = build_tiny("tiny-llama")
    config = model.config
    ours = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ours == (256, 257, 258) == (config.pad_token_id, config.bos_token_id, config.eos_token_id)
    assert len(tokenizer) == config.vocab_size
