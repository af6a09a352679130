"""The fingerprint: equal where the model is the same, and different, with the field named, where it is not."""

import json
from dataclasses import replace

import pytest
import torch

from ltm.backbone import TINY_ARCHITECTURES, Backbone, Fingerprint, load_backbone
from ltm.backbone.fingerprint import Identity, hash_tokenizer, tensors_of
from ltm.backbone.fingerprint import hash_weights as hash_tensors
from ltm.backbone.tiny import build_tiny, byte_tokenizer
from ltm.backbone.watched import TURNS
from ltm.errors import LtmError


def hash_weights(model) -> str:
    return hash_tensors(list(tensors_of(model)))


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_the_same_model_has_the_same_fingerprint_and_no_other_has(name, tiny_backbone):
    fingerprint = tiny_backbone(name).fingerprint
    assert load_backbone(name).fingerprint == fingerprint
    others = [tiny_backbone(other).fingerprint.weights for other in TINY_ARCHITECTURES if other != name]
    assert fingerprint.weights not in others
    assert Backbone(name, *build_tiny(name, seed=1)).fingerprint.weights != fingerprint.weights


def test_fields(tiny_backbone):
    fingerprint = tiny_backbone("tiny-gpt-neox").fingerprint
    assert fingerprint.architecture == "GPTNeoXForCausalLM"
    sizes = (fingerprint.num_layers, fingerprint.num_heads, fingerprint.num_kv_heads, fingerprint.head_dim)
    assert sizes == (6, 4, 4, 16)
    assert (fingerprint.hidden_size, fingerprint.vocab_size, fingerprint.dtype) == (64, 259, "float32")
    assert json.loads(fingerprint.rope)["partial_rotary_factor"] == 0.25
    assert tiny_backbone("tiny-gpt2").fingerprint.rope == "null"


def test_float32_and_bfloat16_copies_share_weights_and_differ_in_dtype(tiny_backbone):
    full, half = (tiny_backbone("tiny-llama", dtype).fingerprint for dtype in ("float32", "bfloat16"))
    assert half == replace(full, dtype="bfloat16", bits=half.bits)
    assert full.bits.startswith("float32:") and half.bits.startswith("bfloat16:")
    assert full.differences(half) == ["dtype: bank float32, backbone bfloat16"]


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.3.mlp.up_proj.weight"])
@torch.no_grad()
def test_one_changed_tensor_changes_it(name):
    model = build_tiny("tiny-llama")[0]
    before = hash_weights(model)
    tensor = model.get_parameter(name)
    tensor.mul_(1.02)  # more than half a bfloat16 step
    assert hash_weights(model) != before
    tensor.copy_(build_tiny("tiny-llama")[0].get_parameter(name))
    assert hash_weights(model) == before


def test_weights_that_are_not_in_memory_are_refused():
    with torch.device("meta"):
        model = type(build_tiny("tiny-llama")[0])(build_tiny("tiny-llama")[0].config)
    with pytest.raises(LtmError, match="not in memory"):
        hash_weights(model)


def test_use_does_not_change_a_tokenizers_hash():
    tokenizer = byte_tokenizer()
    before = hash_tokenizer(tokenizer)
    state = tokenizer.backend_tokenizer.to_str()
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert tokenizer.backend_tokenizer.to_str() != state  # the call did change its serialised form
    assert hash_tokenizer(tokenizer) == before


def test_another_token_changes_a_tokenizers_hash():
    tokenizer = byte_tokenizer()
    before = hash_tokenizer(tokenizer)
    tokenizer.add_tokens(["whale"])
    assert hash_tokenizer(tokenizer) != before


def test_without_a_tokenizer_there_is_no_hash_of_one():
    fingerprint = Backbone("mine", build_tiny("tiny-llama")[0]).fingerprint
    assert fingerprint.tokenizer is None
    told = fingerprint.differences(load_backbone("tiny-llama").fingerprint)
    assert len(told) == 1
    assert told[0].startswith("tokenizer: bank None, backbone ")


def test_round_trip_through_json(tiny_backbone):
    fingerprint = tiny_backbone("tiny-gemma3").fingerprint
    values = json.loads(json.dumps(fingerprint.to_dict()))
    assert Fingerprint.from_dict(values) == fingerprint
    assert Fingerprint.from_dict({**values, "of_a_later_version": 1}) == fingerprint


def test_a_missing_field_is_told(tiny_backbone):
    values = tiny_backbone("tiny-llama").fingerprint.to_dict()
    del values["weights"], values["rope"]
    with pytest.raises(LtmError, match="lacks weights, rope"):
        Fingerprint.from_dict(values)


def test_differences_name_every_field_that_differs_with_short_hashes(tiny_backbone):
    bank, backbone = (tiny_backbone(name).fingerprint for name in ("tiny-llama", "tiny-gpt2"))
    lines = bank.differences(backbone)
    assert [line.split(":")[0] for line in lines] == ["architecture", "weights", "num_kv_heads", "rope"]
    assert "architecture: bank LlamaForCausalLM, backbone GPT2LMHeadModel" in lines
    assert f"weights: bank {bank.weights[:12]}, backbone {backbone.weights[:12]}" in lines
    assert bank.differences(bank) == []


CHANGED = {
    "tiny-llama": {"rms_norm_eps": 1e-3, "hidden_act": "gelu"},
    "tiny-mistral": {"sliding_window": 12},
    "tiny-gemma2": {"attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 20, "hidden_activation": "relu"},
    "tiny-gemma3": {"layer_types": ["full_attention"] * 6, "sliding_window": 8},
    "tiny-gpt2": {"scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3},
    "tiny-gpt-neox": {"use_parallel_residual": False},
    "tiny-opt": {"activation_function": "gelu"},
}


@pytest.mark.parametrize(("name", "setting"), [(name, setting) for name, given in CHANGED.items() for setting in given])
def test_a_setting_that_changes_hidden_states_is_told_with_both_values(name, setting, tiny_backbone):
    value = CHANGED[name][setting]
    other = Backbone(name, *build_tiny(name, **{setting: value}))
    lines = tiny_backbone(name).fingerprint.differences(other.fingerprint)
    told = next(line for line in lines if line.startswith(f"{setting}: bank "))
    assert f"backbone {json.dumps(value)[:90]}" in told
    assert "weights" not in str(lines)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3"])
@torch.no_grad()
def test_rotary_frequencies_that_are_changed_in_place_are_noticed(name):
    backbone = Backbone(name, *build_tiny(name))
    before = backbone.fingerprint
    frequencies = next(buffer for path, buffer in backbone.view.rotary.named_buffers() if path.endswith("inv_freq"))
    rounded = frequencies.to(torch.bfloat16).float()
    frequencies.data.copy_(rounded)  # as `model.to(torch.bfloat16)` leaves them: the dtype tells
    assert before.differences(backbone.fingerprint) == []
    frequencies.data.mul_(0.5)
    assert [line.split(":")[0] for line in before.differences(backbone.fingerprint)] == ["rotary angles"]


def test_what_an_older_fingerprint_does_not_know_is_not_compared(tiny_backbone):
    fingerprint = tiny_backbone("tiny-llama").fingerprint
    values = fingerprint.to_dict()
    del values["settings"]
    older, changed = Fingerprint.from_dict(values), Backbone("other", *build_tiny("tiny-llama", rms_norm_eps=1e-3))
    assert older.settings is None
    assert older.differences(changed.fingerprint) == changed.fingerprint.differences(older) == []
    assert fingerprint.differences(changed.fingerprint)
    few = replace(fingerprint, settings=json.dumps({"rms_norm_eps": 1e-06, "of_a_later_version": 1}))
    assert few.differences(fingerprint) == [] and len(few.differences(changed.fingerprint)) == 1


@pytest.mark.parametrize(
    "odd",
    [{"weights": 7}, {"num_layers": "6"}, {"num_layers": True}, {"rope": "{"}, {"settings": "[]"}, {"settings": 3}]
    + [{"settings": "[" * 100_000}],
)
def test_an_odd_value_is_told(odd, tiny_backbone):
    values = tiny_backbone("tiny-llama").fingerprint.to_dict()
    with pytest.raises(LtmError, match="the fingerprint is damaged: "):
        Fingerprint.from_dict({**values, **odd})


@torch.no_grad()
def test_a_look_tells_any_change_and_nothing_else(monkeypatch):
    model, tokenizer = build_tiny("tiny-llama")
    view, identity, taken = Backbone("mine", model, tokenizer).view, Identity(), []
    monkeypatch.setattr("ltm.backbone.fingerprint.hash_weights", lambda tensors: str(taken.append(1)))
    identity.of(view, tokenizer)
    model(torch.arange(9)[None])
    for _ in range(2 * TURNS):
        identity.of(view, tokenizer)
    assert len(taken) == 1

    def seen(change):
        before = len(taken)
        change()
        identity.of(view, tokenizer)
        return len(taken) == before + 1

    weight = model.get_parameter("model.layers.3.mlp.up_proj.weight")
    assert seen(lambda: weight.view(-1)[1].add_(1))  # one element, with a version counter
    assert seen(lambda: weight.data.add_(1e-3))  # without
    assert seen(lambda: setattr(model.model.norm, "variance_epsilon", 0.1))
    assert seen(lambda: tokenizer.add_tokens(["whale"]))
    assert seen(lambda: model.to(torch.float64))
    assert not seen(lambda: None)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_single_weight_is_part_of_it_and_what_is_changed_is_told_once(dtype):
    """The sample of 4,096 in bfloat16 misses the change, however large the tensor."""
    backbone, sampled = load_backbone("tiny-llama", dtype=dtype), load_backbone("tiny-llama", dtype=dtype)
    weight = backbone.view.layers[3].mlp.up_proj.weight
    before = backbone.fingerprint
    weight.view(-1)[1] = torch.nextafter(weight.view(-1)[1], torch.tensor(9.0, dtype=weight.dtype))
    after = backbone.fingerprint
    assert after.weights == before.weights == sampled.fingerprint.weights
    assert before.differences(after) == ["weights: a few single ones are others in the backbone than in the bank's"]
    assert replace(before, bits=None).differences(after) == []  # what older versions wrote
    weight.view(-1)[1] = sampled.view.layers[3].mlp.up_proj.weight.view(-1)[1]
    assert backbone.fingerprint == before


def test_codes_of_quantised_weights_are_weights():
    model = build_tiny("tiny-llama")[0]
    before = hash_weights(model)
    model.model.norm.register_buffer("passing", torch.ones(3), persistent=False)
    assert hash_weights(model) == before
    model.model.norm.register_buffer("codes", torch.ones(3, dtype=torch.int32))
    coded = hash_weights(model)
    model.model.norm.codes.add_(1)
    assert len({before, coded, hash_weights(model)}) == 3
