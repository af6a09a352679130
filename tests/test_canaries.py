"""Canaries: one test for each thing we ask of transformers, with no code of ours between.

When a release moves something, one of these fails and says in words what moved and where we rely on it; everything else
that fails then follows from it. `make matrix` runs them with the lowest and the newest release.
"""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from ltm.compat import CACHE_NAME, AttentionMaskInterface, cache_argument, cache_of, sdpa_mask

HERE = f"transformers {transformers.__version__}"


@pytest.fixture
def model() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=64,
        max_position_embeddings=128,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.arange(2, 14).view(2, 6)


def told(what: str, where: str) -> str:
    return f"{HERE}: {what}. We rely on it in {where}."


def test_the_cache_has_one_of_two_names():
    names = {field.name for field in fields(CausalLMOutputWithPast)}
    assert len(names & {"cache", "past_key_values"}) == 1, told(
        f"a causal output has the fields {sorted(names)}, neither cache nor past_key_values", "compat.CACHE_NAME"
    )


def test_models_take_and_give_the_cache_under_that_name(model, ids):
    for call in (model.forward, model.get_decoder().forward):
        assert CACHE_NAME in inspect.signature(inspect.unwrap(call)).parameters, told(
            f"the forward of {call.__self__.__class__.__name__} has no argument {CACHE_NAME}", "compat.cache_argument"
        )
    cache = DynamicCache()
    output = model(ids, **cache_argument(cache), use_cache=True)
    assert cache_of(output) is cache, told("a model gives back another cache than it was given", "compat.cache_of")


def test_generate_hands_the_cache_over_under_that_name(model, ids):
    """And asks for inputs with prepare_inputs_for_generation(input_ids, **kwargs), once a token."""
    asked = []
    inputs_of = model.prepare_inputs_for_generation

    def noted(input_ids, **kwargs):
        asked.append(kwargs)
        return inputs_of(input_ids, **kwargs)

    model.prepare_inputs_for_generation = noted
    model.generate(ids, **cache_argument(DynamicCache()), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert len(asked) == 3, told("generate() asks for a step's inputs not once a token", "Method.generate")
    assert all(isinstance(kwargs.get(CACHE_NAME), Cache) for kwargs in asked), told(
        f"generate() hands {sorted(asked[0])} to prepare_inputs_for_generation, {CACHE_NAME} not among them",
        "Method.prepare_inputs_for_generation",
    )


def test_generate_lets_the_arguments_of_forward_through(model, ids):
    """`memory_rows` reaches Method.forward because forward names it; what it does not name is refused."""
    with pytest.raises(ValueError, match="memory_rows"):
        model.generate(ids, memory_rows=torch.tensor([0, 1]), max_new_tokens=2, pad_token_id=0)


def test_generate_repeats_rows_for_beams_before_the_first_pass(model, ids):
    """Whatever tensor comes with the prompt is repeated, too: beams follow their prompt's memory row."""
    seen = []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True)
    model.generate(ids, num_beams=3, max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert seen[0] == 6, told(f"the first pass of 2 prompts with 3 beams has {seen[0]} rows, not 6", "Method.generate")


def test_a_returned_output_is_a_class_with_sequences(model, ids):
    output = model.generate(
        ids, max_new_tokens=2, do_sample=False, pad_token_id=0, return_dict_in_generate=True, output_scores=True
    )
    assert output.sequences.shape == (2, 8) and len(output.scores) == 2, told(
        "generate()'s output has no sequences and scores of one a token", "ltm.text.generation"
    )


# Names apart by a bar are one verb's in different releases.
CACHE_VERBS = (
    "update get_seq_length get_max_length|get_max_cache_shape get_mask_sizes reset reorder_cache crop "
    "batch_repeat_interleave batch_select_indices is_compileable"
)


@pytest.mark.parametrize("verb", CACHE_VERBS.split(" "))
def test_a_cache_has_the_verbs_that_ours_overrides(verb):
    assert any(hasattr(Cache, name) for name in verb.split("|")), told(
        f"Cache has no {verb}; what is it called now, and does generate() ask for it?", "cache/memory_cache.py"
    )


def test_a_cache_layer_keeps_keys_and_values_by_name(model, ids):
    cache = DynamicCache()
    model(ids, **cache_argument(cache), use_cache=True)
    layer = cache.layers[1]
    assert layer.keys.shape == layer.values.shape == (2, 2, 6, 8), told(
        "a cache's layer has no keys and values [batch, kv_heads, tokens, head_dim]", "cache/ and methods/em_llm"
    )
    assert cache.get_seq_length() == 6 and len(cache.layers) == 2


def test_a_layers_mask_sizes_are_length_and_offset(model, ids):
    cache = DynamicCache()
    model(ids, **cache_argument(cache), use_cache=True)
    assert cache.layers[0].get_mask_sizes(3) == (9, 0), told(
        "get_mask_sizes(new tokens) is not (held + new, offset)", "cache/pages.py"
    )


def test_the_attention_interface_calls_with_what_we_read(model, ids):
    """(module, query, key, value, mask, scaling=...), keys rotated and of the kv heads alone; the output transposed."""
    calls = []

    def noted(module, query, key, value, attention_mask, **kwargs):
        calls.append((module, query, key, value, kwargs))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)

    expected = model(ids).logits
    AttentionInterface.register("canary", noted)
    AttentionMaskInterface.register("canary", sdpa_mask)
    model.config._attn_implementation = "canary"
    torch.testing.assert_close(model(ids).logits, expected)
    assert len(calls) == 2, told("a registered attention function is not called once a layer", "attention/function.py")
    module, query, key, value, kwargs = calls[1]
    assert module.layer_idx == 1 and query.shape == (2, 4, 6, 8) and key.shape == value.shape == (2, 2, 6, 8)
    assert kwargs["scaling"] == pytest.approx(8**-0.5), told("scaling is no keyword argument", "attention/function.py")


def test_attention_modules_are_given_their_angles(model, ids):
    seen = []
    attention = model.get_decoder().layers[0].self_attn
    attention.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    model(ids)
    assert "position_embeddings" in seen[0], told(
        f"attention modules are given {sorted(seen[0])}, without position_embeddings", "attention/function.py: Site"
    )
    cos, sin = seen[0]["position_embeddings"]
    assert cos.shape[-2:] == sin.shape[-2:] == (6, 8)


def test_a_mask_function_is_called_by_name(model, ids):
    """Masks reach a registered attention function only through a mask function of the same name."""
    seen = []

    def noted(*args, **kwargs):
        seen.append(kwargs)
        return sdpa_mask(*args, **kwargs)

    AttentionInterface.register("canary", ALL_ATTENTION_FUNCTIONS["sdpa"])
    AttentionMaskInterface.register("canary", noted)
    model.config._attn_implementation = "canary"
    model(ids, attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6]))
    assert seen, told("no mask function is asked for the mask", "attention/function.py")


def test_layers_return_one_tensor_and_know_their_number(model, ids):
    """Hooks on decoder layers read hidden states; a tuple would lose the batch without a word."""
    outputs = []
    layers = model.get_decoder().layers
    layers[0].register_forward_hook(lambda module, args, output: outputs.append(output))
    model(ids)
    assert isinstance(outputs[0], torch.Tensor) and outputs[0].shape == (2, 6, 32), told(
        f"a decoder layer returns a {type(outputs[0]).__name__}", "methods/longmem"
    )
    assert [layer.self_attn.layer_idx for layer in layers] == [0, 1], told("layers lack layer_idx", "backbone/view.py")


def test_final_norm_and_head_are_reached(model):
    assert model.get_output_embeddings() is model.lm_head and model.get_input_embeddings() is not None
    assert hasattr(model.get_decoder(), "norm") and hasattr(model.get_decoder(), "rotary_emb"), told(
        "a Llama's decoder has no norm and rotary_emb", "backbone/view.py"
    )
