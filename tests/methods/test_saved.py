"""Saved methods: what was edited, damaged or made elsewhere is refused in one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltm.backbone import load_backbone
from ltm.errors import ConfigError, LtmError
from ltm.methods import create_method, load_method
from ltm.methods.attention.longmem import LongMemConfig
from ltm.methods.registry import config_from_options


@pytest.fixture
def saved(tmp_path):
    """A SideNet for tiny-llama, in int8."""
    create_method("longmem", load_backbone("tiny-llama"), **vars(LongMemConfig.tiny())).save_pretrained(
        tmp_path, "int8"
    )
    return tmp_path


def message_of(saved) -> str:
    with pytest.raises(LtmError) as caught:
        load_method(load_backbone("tiny-llama"), saved)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": 7}, "its method is not a text"),
        ({"method": ["longmem"]}, "its method is not a text"),
        ({"method": "longmemm"}, "unknown method 'longmemm'; did you mean longmem?"),
        ({"method_config": None}, "its method_config is not an object"),
        ({"fingerprint": []}, "its fingerprint is not an object"),
        ({"fingerprint": {"weights": "a"}}, "the fingerprint lacks architecture"),
        ({"backbone": 3}, "its backbone is not a text"),
    ],
)
def test_an_odd_record_is_told(changes, told, saved):
    file = saved / "ltm_method.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    assert told in message_of(saved)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"chunk_size": "4"}, "chunk_size='4': chunk_size is not a whole number"),
        ({"chunk_size": 2.0}, "chunk_size=2.0: chunk_size is not a whole number"),
        ({"chunk_size": True}, "chunk_size=True: chunk_size is not a whole number"),
        ({"chunk_size": None}, "chunk_size=None: chunk_size is not a whole number"),
        ({"pointer": 1}, "pointer=1: pointer is not true or false"),
        ({"pointer_trust": float("nan")}, "pointer_trust=nan; use a finite number"),
        ({"fusion": ["gate"]}, "fusion=['gate']: fusion is not a text"),
        ({"fusion": "zork" * 99}, "fusion='zorkzork"),
        ({"memory_size": 10**30}, f"memory_size={10**30}; use at most {2**40:,}"),
        ({"memory_size": 2**60}, f"memory_size={2**60}; use at most"),
        ({"pointer_tokens": 10**6}, "pointer_tokens=1000000; use 65536 or less"),
        (
            {"stride": {}, "index": 3},
            "index=3: index is not a text; stride={}: stride is not a whole number of 64 bits",
        ),
        ({"zork": 1}, "method longmem has no option zork"),
    ],
)
def test_an_odd_config_is_told_all_at_once(changes, told, saved):
    file = saved / "ltm_method.json"
    record = json.loads(file.read_text())
    record["method_config"].update(changes)
    file.write_text(json.dumps(record))
    assert told in (message := message_of(saved)) and len(message) < 800


@pytest.mark.parametrize("text", ["[]", "null", "", "{", "[" * 100_000, "9" * 9999])
def test_a_damaged_record_is_told(text, saved):
    (saved / "ltm_method.json").write_text(text)
    assert "ltm_method.json is damaged" in message_of(saved)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("name", ["norm.weight", "layers.0.mlp.up_proj.weight.row_scale"])
def test_trained_weights_that_are_no_numbers_are_refused(name, value, saved):
    tensors = load_file(saved / "ltm_method.safetensors")
    tensors[name][1] = float(value)
    save_file(tensors, saved / "ltm_method.safetensors")
    told = "holds NaN or infinite numbers in 1 of its tensors, such as " + name.removesuffix(".row_scale")
    assert told in message_of(saved)


def test_scales_that_do_not_fit_their_codes_are_refused(saved):
    tensors = load_file(saved / "ltm_method.safetensors")
    tensors["layers.0.mlp.up_proj.weight.row_scale"] = torch.ones(1)
    save_file(tensors, saved / "ltm_method.safetensors")
    assert "layers.0.mlp.up_proj.weight has [96, 64] codes, but [1] scales" in message_of(saved)


def test_options_may_be_numbers_of_other_libraries():
    options = {"memory_size": torch.tensor(64), "pointer_trust": torch.tensor(1)}
    config = config_from_options(LongMemConfig, options, "longmem")
    assert (config.memory_size, config.pointer_trust) == (64, 1)
    with pytest.raises(ConfigError, match="memory_size=tensor.*: "):
        config_from_options(LongMemConfig, {"memory_size": torch.tensor([1, 2])}, "longmem")
