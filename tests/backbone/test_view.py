"""The view against what is known of each family: by its config, by its module names, and by what the parts do."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ltm.backbone import TINY_ARCHITECTURES, BackboneView
from ltm.backbone.tiny import build_tiny
from ltm.compat import cache_of
from ltm.errors import LtmError

# layer list, attention of layer 2, final norm, embeddings, head, rotary; output projections of layer 2
LLAMA = (
    "model.layers",
    "model.layers.2.self_attn",
    "model.norm",
    "model.embed_tokens",
    "lm_head",
    "model.rotary_emb",
    ["model.layers.2.self_attn.o_proj", "model.layers.2.mlp.down_proj"],
)
PATHS = dict.fromkeys(TINY_ARCHITECTURES, LLAMA) | {
    "tiny-gpt-neox": (
        "gpt_neox.layers",
        "gpt_neox.layers.2.attention",
        "gpt_neox.final_layer_norm",
        "gpt_neox.embed_in",
        "lm_head",
        "gpt_neox.rotary_emb",
        ["gpt_neox.layers.2.attention.dense", "gpt_neox.layers.2.mlp.dense_4h_to_h"],
    ),
    "tiny-gpt2": (
        "transformer.h",
        "transformer.h.2.attn",
        "transformer.ln_f",
        "transformer.wte",
        "lm_head",
        None,
        ["transformer.h.2.attn.c_proj", "transformer.h.2.mlp.c_proj"],
    ),
    "tiny-opt": (
        "model.decoder.layers",
        "model.decoder.layers.2.self_attn",
        "model.decoder.final_layer_norm",
        "model.decoder.embed_tokens",
        "lm_head",
        None,
        ["model.decoder.layers.2.self_attn.out_proj", "model.decoder.layers.2.fc2"],
    ),
}
GROUPED = {"tiny-llama", "tiny-mistral", "tiny-qwen2", "tiny-qwen3", "tiny-gemma2", "tiny-gemma3", "tiny-phi3"}


def some_ids(tokens=12):
    return torch.randint(0, 256, (2, tokens), generator=torch.Generator().manual_seed(0))


def small(model_type, **fields):
    """A random model of a family that has no tiny name."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    try:
        config = AutoConfig.for_model(model_type, **{**sizes, "pad_token_id": 0, "bos_token_id": 1, **fields})
    except StrictDataclassFieldValidationError as error:  # Olmo 2 of transformers 5.4 with a newer huggingface_hub
        pytest.skip(f"this transformers refuses its own default of {model_type}: {error}")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_sizes(name, tiny_backbone):
    view = tiny_backbone(name).view
    assert (view.num_layers, view.hidden_size, view.num_heads, view.head_dim) == (6, 64, 4, 16)
    assert view.num_kv_heads == (2 if name in GROUPED else 4)
    assert (view.vocab_size, view.max_positions) == (259, 512)
    assert view.pre_norm


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_parts_are_the_models_own(name, tiny_backbone):
    view = tiny_backbone(name).view
    layers, attention, norm, embeddings, head, rotary, outputs = PATHS[name]
    part = view.model.get_submodule
    assert view.layers is part(layers)
    assert view.attention(2) is part(attention)
    assert view.final_norm is part(norm)
    assert view.embeddings is part(embeddings)
    assert view.head is getattr(view.model, head, None) or view.head is view.model.embed_out  # older NeoX
    assert view.rotary is (part(rotary) if rotary else None)
    assert view.has_rotary == (rotary is not None)
    found = view.output_projections(view.layers[2])
    assert len(found) == 2
    assert all(module is part(path) for module, path in zip(found, outputs, strict=True))


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_heads_and_head_dim_are_what_attention_computes_with(name, tiny_backbone):
    """Not read from a config again: the shapes of the cached keys of a real forward."""
    view = tiny_backbone(name).view
    with torch.no_grad():
        cache = cache_of(view.model(some_ids(), use_cache=True))
    assert cache.layers[2].keys.shape == (2, view.num_kv_heads, 12, view.head_dim)


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
@torch.no_grad()
def test_without_its_output_projections_a_layer_is_the_identity(name):
    view = BackboneView(build_tiny(name)[0])
    before = view.model(some_ids(), output_hidden_states=True).hidden_states
    assert (before[3] - before[2]).abs().max() > 0.1
    for projection in view.output_projections(view.layers[2]):
        projection.weight.zero_()
        if projection.bias is not None:
            projection.bias.zero_()
    after = view.model(some_ids(), output_hidden_states=True).hidden_states
    assert torch.equal(after[2], before[2])
    assert torch.equal(after[3], after[2])


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
@torch.no_grad()
def test_output_projections_of_a_copied_layer(name, tiny_backbone):
    view = tiny_backbone(name).view
    copied = copy.deepcopy(view.layers[3])
    for theirs, mine in zip(view.output_projections(copied), view.output_projections(view.layers[3]), strict=True):
        assert theirs is not mine
        assert torch.equal(theirs.weight, mine.weight)


OTHERS = {
    "granite": {"logits_scaling": 3.0, "num_key_value_heads": 2, "intermediate_size": 48},
    "cohere": {"logit_scale": 0.25, "num_key_value_heads": 2, "intermediate_size": 48},
    "gemma": {"head_dim": 8, "num_key_value_heads": 1, "intermediate_size": 48},
    "olmo2": {"num_key_value_heads": 2, "intermediate_size": 48},
    "starcoder2": {"num_key_value_heads": 2, "intermediate_size": 48},
    "stablelm": {"num_key_value_heads": 2, "intermediate_size": 48},
    "phi": {"intermediate_size": 48},
    "gpt_bigcode": {},
    "smollm3": {"num_key_value_heads": 2, "intermediate_size": 48},
}


@pytest.mark.parametrize("name", [*TINY_ARCHITECTURES, *OTHERS])
@torch.no_grad()
def test_logits_from_the_decoders_output_are_the_models(name, tiny_backbone):
    view = BackboneView(small(name, **OTHERS[name])) if name in OTHERS else tiny_backbone(name).view
    ids = some_ids() % 64
    expected = view.model(ids).logits
    assert expected.std() > 1e-3
    torch.testing.assert_close(view.logits(view.decoder(ids).last_hidden_state), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_families_that_are_not_listed_work_too(name):
    view = BackboneView(small(name, **OTHERS[name]))
    cache = cache_of(view.model(some_ids() % 64, use_cache=True))
    assert cache.layers[1].keys.shape == (2, view.num_kv_heads, 12, view.head_dim)
    assert len(view.output_projections(view.layers[1])) == 2


@torch.no_grad()
def test_the_layout_of_opt_350m():
    """Post-norm, no final norm, and embeddings of another width than the hidden states."""
    view = BackboneView(build_tiny("tiny-opt", do_layer_norm_before=False, word_embed_proj_dim=48)[0])
    assert not view.pre_norm
    assert view.final_norm is None
    assert isinstance(view.project_out, nn.Linear)
    assert view.embeddings.weight.shape == (259, 48)
    outputs = []
    handle = view.layers[-1].register_forward_hook(lambda module, args, output: outputs.append(output))
    expected = view.model(some_ids()).logits
    handle.remove()
    assert outputs[0].shape == (2, 12, 64)
    torch.testing.assert_close(view.logits(outputs[0]), expected, rtol=0, atol=1e-6)


UNREACHABLE = {
    "bloom": {"n_head": 4, "n_layer": 2},
    "falcon": {},
    "mamba": {},
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_a_model_out_of_reach_of_the_attention_interface_is_refused(name):
    with pytest.raises(LtmError, match=r"ForCausalLM .*attention interface.*known to work: Llama, SmolLM"):
        BackboneView(small(name, **UNREACHABLE[name]))


TURNS_OTHERWISE = {
    "cohere": {"num_key_value_heads": 2, "intermediate_size": 48},
    "glm": {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8, "pad_token_id": 0},
    "smollm3": {"num_key_value_heads": 2, "intermediate_size": 48, "no_rope_layers": [1, 0], "pad_token_id": 0},
}


@pytest.mark.parametrize("name", TURNS_OTHERWISE)
def test_keys_whose_rotation_is_not_known_are_refused(name):
    """Neighbouring channels that turn together (Cohere, GLM), or layers that do not turn (SmolLM3)."""
    with pytest.raises(LtmError, match=r"turns its keys by their position in its own way.*known to work: Llama"):
        BackboneView(small(name, **TURNS_OTHERWISE[name])).check_rotation()


def test_gpt_j_is_refused_by_whatever_reaches_it():
    """Until transformers 5.23 its attention was out of reach; from 5.24 on its rotation is what stands in the way."""
    with pytest.raises(LtmError, match=r"GPTJForCausalLM (computes attention|turns its keys) .*known to work: Llama"):
        BackboneView(small("gptj", n_embd=32, n_layer=2, n_head=4, rotary_dim=4)).check_rotation()


def test_an_encoder_decoder_is_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    with pytest.raises(LtmError, match="not a decoder-only"):
        BackboneView(T5ForConditionalGeneration(config))


def test_a_mixture_of_experts_has_no_two_output_projections():
    view = BackboneView(small("mixtral", num_key_value_heads=2, intermediate_size=48, num_local_experts=2))
    with pytest.raises(LtmError, match="1 attention and 0 MLP output projections"):
        view.output_projections(view.layers[0])


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_the_matrices_of_layers_are_attention_or_mlp(name):
    view = BackboneView(build_tiny(name)[0])
    attention, mlp, both = view.linears("attention"), view.linears("mlp"), view.linears()
    assert attention and mlp and list(both) == [n for n in both if (n in attention) != (n in mlp)]
    assert len(both) % view.num_layers == 0
    assert all(view.model.get_submodule(module_name) is module for module_name, module in both.items())
    first, second = view.output_projections(view.layers[2])
    assert any(module is first for module in attention.values())
    assert any(module is second for module in mlp.values())
    if name == "tiny-opt":
        with pytest.raises(LtmError, match="no module of its own"):
            view.mlp(2)
    else:
        assert any(module is second for module in view.mlp(2).modules())


def test_matrices_by_name_and_what_is_said_of_unknown_ones():
    view = BackboneView(build_tiny("tiny-llama")[0])
    assert {name.rpartition(".")[2] for name in view.linears("q_proj, up_proj")} == {"q_proj", "up_proj"}
    with pytest.raises(LtmError, match="c_attn in its layers; use all, attention, mlp, or of down_proj"):
        view.linears("q_proj,c_attn")


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_hidden_states_of_embeddings_score_as_the_model_does(name):
    view = BackboneView(build_tiny(name)[0])
    ids, mask = some_ids(), torch.ones(2, 12, dtype=torch.bool)
    mask[1, :4] = False
    with torch.no_grad():
        expected = view.model(ids[1:, 4:]).logits
        found = view.logits(view.hidden(view.embeddings(ids), mask))[1:, 4:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
