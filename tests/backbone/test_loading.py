"""Loading: every kind of name, what the backbone is afterwards, and one line for each mistake."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, BloomForCausalLM
from transformers.utils import logging as transformers_logging

from ltm.backbone import TINY_ARCHITECTURES, load_backbone, loading
from ltm.backbone.tiny import build_tiny
from ltm.errors import LtmError

IDS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path):
    """A directory with tiny-qwen3 and its tokenizer."""
    model, tokenizer = build_tiny("tiny-qwen3")
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
def test_a_backbone_is_frozen_in_eval_mode_and_takes_text(name):
    backbone = load_backbone(name)
    assert backbone.name == name
    assert [p for p in backbone.model.parameters() if p.requires_grad] == []
    assert [m for m in backbone.model.modules() if m.training] == []
    assert (backbone.dtype, backbone.device) == (torch.float32, torch.device("cpu"))
    assert backbone.tokenizer("ab").input_ids == [97, 98]


@pytest.mark.parametrize("dtype", ["bfloat16", "bf16", torch.bfloat16])
def test_a_dtype_can_be_asked_for(dtype):
    assert load_backbone("tiny-gpt2", dtype=dtype).dtype == torch.bfloat16


def test_another_dtype_leaves_the_rotary_frequencies_exact():
    rotary = load_backbone("tiny-llama", dtype="bfloat16").view.rotary
    assert torch.equal(rotary.inv_freq, build_tiny("tiny-llama")[0].model.rotary_emb.inv_freq)


@torch.no_grad()
def test_a_directory(saved, capfd):
    backbone = load_backbone(str(saved), dtype="float32")
    assert capfd.readouterr() == ("", "")
    assert torch.equal(backbone.model(IDS).logits, build_tiny("tiny-qwen3")[0](IDS).logits)
    assert backbone.fingerprint == load_backbone("tiny-qwen3").fingerprint


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_bfloat16_only_where_the_processor_has_it(saved, fast, monkeypatch):
    monkeypatch.setattr(loading, "cpu_has_fast_bf16", lambda: fast)
    expected = torch.bfloat16 if fast else torch.float32
    assert load_backbone(saved, device="cpu").dtype == expected
    assert load_backbone("tiny-llama", device="cpu").dtype == torch.float32


def test_loading_puts_transformers_switches_back(saved):
    verbosity = transformers_logging.get_verbosity()
    assert transformers_logging.is_progress_bar_enabled()
    load_backbone(saved)
    assert transformers_logging.is_progress_bar_enabled()
    assert transformers_logging.get_verbosity() == verbosity


def test_a_directory_without_a_tokenizer_is_told(tmp_path, capfd):
    build_tiny("tiny-llama")[0].save_pretrained(tmp_path)
    assert load_backbone(tmp_path).tokenizer is None
    assert "has no tokenizer that loads" in capfd.readouterr().err


def test_a_loaded_model_is_kept_as_it_is_and_frozen():
    model, tokenizer = build_tiny("tiny-opt")
    model.to(torch.bfloat16).train()
    backbone = load_backbone(model)
    assert backbone.model is model
    assert (backbone.name, backbone.dtype, backbone.tokenizer) == ("tiny-opt", torch.bfloat16, None)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert load_backbone(model, tokenizer=tokenizer).tokenizer is tokenizer
    assert load_backbone(model, dtype="float32").dtype == torch.float32


def message_of(name, **options):
    with pytest.raises(LtmError) as caught:
        load_backbone(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"), [("smollm2-135", "smollm2-135m"), ("tiny-lama", "tiny-llama"), ("Tiny-GPT2", "tiny-gpt2")]
)
def test_a_misspelt_name(name, meant):
    message = message_of(name)
    assert f"Did you mean {meant}?" in message
    assert all(known in message for known in ("smollm2-135m", *TINY_ARCHITECTURES))
    assert "also accepted: a hub id, a directory" in message


@pytest.mark.parametrize("name", ["nobody-has-this", "nobody/has-this", "what is this"])
def test_an_unknown_hub_id(name):
    message = message_of(name)
    assert message.startswith(f"{name} is not in the hub's local cache, and the hub said: ")
    assert "smollm2-135m" in message


def test_paths_that_lead_nowhere(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    assert "does not exist" in message_of(str(tmp_path / "nowhere"))
    assert "is a file, but not a .gguf file" in message_of(tmp_path / "notes.txt")
    assert "without a config.json" in message_of(tmp_path / "empty")


@pytest.mark.parametrize("thing", [None, 7, "", torch.nn.Linear(2, 2)])
def test_what_is_no_model(thing):
    assert re.search("is not a (transformers )?model; pass a hub id", message_of(thing))


def test_dtypes_and_devices_that_are_none():
    assert "use 'auto', 'float64', 'float32', 'bfloat16' or 'float16'" in message_of("tiny-llama", dtype="int3")
    assert "dtype=torch.int64" in message_of("tiny-llama", dtype=torch.int64)
    assert "is not a device" in message_of("tiny-llama", device="toaster")
    if not torch.cuda.is_available():
        assert "torch sees no GPU" in message_of("tiny-llama", device="cuda")


def test_a_truncated_weights_file(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert f"{saved} could not be loaded: " in message_of(saved)


def test_a_missing_tensor_is_refused_and_not_made_up(saved):
    weights = load_file(saved / "model.safetensors")
    del weights["model.layers.2.mlp.down_proj.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert "1 of the model's tensors are missing, such as model.layers.2.mlp.down_proj" in message_of(saved)


def test_a_model_of_an_unfit_family(tmp_path):
    BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(tmp_path)
    assert "BloomForCausalLM computes attention in its own way" in message_of(tmp_path)


def test_a_directory_of_another_kind_of_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-family"}')
    assert "could not be loaded" in message_of(tmp_path)


def configured(saved, **changes):
    """The directory with other values in its config.json."""
    file = saved / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return saved


@pytest.mark.parametrize("kind", ["awq", "gptq", "bitsandbytes", "torchao"])
def test_quantised_weights_that_nothing_here_reads(kind, saved):
    quantised = {"quant_method": kind, "bits": 4, "group_size": 128, "load_in_4bit": True}
    message = message_of(configured(saved, quantization_config=quantised))
    assert f"its weights are quantised with {kind}: install what that needs, or take a copy that is not" in message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"intermediate_size": 98}, "18 of the model's tensors have another shape than its config says, such as"),
        ({"num_attention_heads": 3}, "12 of the model's tensors have another shape"),
        ({"rms_norm_eps": "x"}, "Field 'rms_norm_eps' expected float, got str"),
        ({"hidden_act": "zork"}, "no 'zork'"),
        ({"dtype": "zork"}, "no attribute 'zork'"),
        ({"pad_token_id": 10**6}, "Padding_idx must be within num_embeddings"),
        ({"rms_norm_eps": float("nan")}, "its scores are not finite numbers"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}},
            "NaN or infinite numbers in 2 of its tensors",
        ),
        ({"model_type": "zork", "auto_map": {"AutoConfig": "a.B"}}, "contains custom code"),
        ({"num_hidden_layers": 10**9, "layer_types": None}, "num_hidden_layers=1000000000, more than its weights"),
        ({"num_hidden_layers": 99, "layer_types": None}, "has 99 layers, more than its weights have tensors (69)"),
        ({"num_labels": 10**9}, "num_labels=1000000000, more than its weights have tensors"),
        ({"intermediate_size": 10**9}, "numbers, more than its weights hold"),
        ({"vocab_size": 2**62}, "could not be loaded"),
        ({"vocab_size": 10**400}, "could not be loaded"),
    ],
)
def test_an_odd_config_is_told_in_one_line(changes, told, saved, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("it asks whether to run the code"))
    assert told in message_of(configured(saved, **changes))


def test_a_corrupt_pickle_of_weights(saved):
    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(b"no pickle at all")
    assert f"{saved} could not be loaded: " in message_of(saved)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json", "another"])
def test_what_is_no_plain_file_is_not_opened(name, saved):
    (saved / name).unlink(missing_ok=True)
    os.mkfifo(saved / name)
    assert f"{name} is no plain file" in message_of(saved)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_no_numbers_are_refused(value, saved):
    weights = load_file(saved / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 5] = float(value)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    told = "holds NaN or infinite numbers in 1 of its tensors, such as model.layers.2.mlp.up_proj.weight; get weights"
    assert told in message_of(saved)
    model = build_tiny("tiny-llama")[0]
    model.model.norm.weight.data[1] = float(value)
    assert "tiny-llama holds NaN or infinite numbers in 1 of its tensors, such as model.norm.weight" in message_of(
        model
    )


def test_a_damaged_tokenizer_is_none(saved, capfd):
    (saved / "tokenizer.json").write_text("{")
    assert load_backbone(saved).tokenizer is None
    assert "has no tokenizer that loads" in capfd.readouterr().err
