"""The fingerprint: equal where the model is the same, and different, with the field named, where it is not."""

import json
from dataclasses import replace

import pytest
import torch

from ltm.backbone import TINY_ARCHITECTURES, Backbone, Fingerprint, load_backbone
from ltm.backbone.fingerprint import SAMPLES_PER_TENSOR, _sample, hash_tokenizer, hash_weights
from ltm.backbone.tiny import build_tiny, byte_tokenizer
from ltm.errors import LtmError


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
    assert half == replace(full, dtype="bfloat16")
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


@pytest.mark.parametrize("shape", [(1,), (63,), (4096,), (4097,), (4096, 4096), (1536, 576), (49152, 576)])
def test_the_sample_is_small_and_covers_rows_and_columns(shape):
    tensor = torch.arange(torch.Size(shape).numel()).view(shape)
    sample = _sample(tensor)
    assert min(tensor.numel(), SAMPLES_PER_TENSOR // 3) <= len(sample) <= SAMPLES_PER_TENSOR
    if len(shape) == 2:
        assert len((sample // shape[1]).unique()) > min(shape) // 2  # rows
        assert len((sample % shape[1]).unique()) > min(shape) // 2  # columns


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
