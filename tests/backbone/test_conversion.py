"""GGUF files: the copy computes what the original does, is made once, and is never seen half made."""

import json
import os
import resource
import signal
import time

import pytest
import torch
from gguf_files import tiny_llama, write_gguf
from safetensors import safe_open

from ltm.backbone import conversion, load_backbone
from ltm.backbone.conversion import cache_directory, converted_directory, is_complete
from ltm.errors import LtmError

IDS = torch.randint(2, 256, (2, 30), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LTM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gguf_file(tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", tiny_llama())


def left_in(cache):
    return sorted(path.name for path in (cache / "models").glob("*"))


def stored_dtypes(directory):
    with safe_open(directory / "model.safetensors", "pt") as file:
        return {file.get_tensor(name).dtype for name in list(file.keys())}


@torch.no_grad()
def test_a_gguf_backbone_computes_what_the_model_it_was_written_from_does(gguf_file):
    backbone = load_backbone(gguf_file, dtype="float32")
    assert backbone.name == str(gguf_file)
    assert torch.equal(backbone.model(IDS).logits, tiny_llama()(IDS).logits)
    assert stored_dtypes(converted_directory(gguf_file)) == {torch.float32}


@torch.no_grad()
def test_quantised_weights_are_stored_in_half_and_compute_the_same(tmp_path):
    gguf_file = write_gguf(tmp_path / "q8.gguf", tiny_llama(), quantize=True)
    exact = conversion.load_whole(tmp_path, torch.float32, gguf_file="q8.gguf")
    logits = load_backbone(gguf_file, dtype="float32").model(IDS).logits
    assert stored_dtypes(converted_directory(gguf_file)) == {torch.float16}
    assert (exact(IDS).logits - tiny_llama()(IDS).logits).abs().max() > 1e-3  # 8 bits do lose something
    # float16 rounds each weight by up to 1/2048 of it, in two layers; the logits have standard deviation 1
    torch.testing.assert_close(logits, exact(IDS).logits, rtol=0, atol=2e-2)


def test_values_too_large_for_float16_are_stored_in_bfloat16(tmp_path):
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    gguf_file = write_gguf(tmp_path / "large.gguf", model, quantize=True)
    assert stored_dtypes(converted_directory(gguf_file)) == {torch.bfloat16}


def test_the_tokenizer_takes_each_digit_alone_and_runs_of_spaces_whole(gguf_file):
    tokenizer = load_backbone(gguf_file).tokenizer
    assert tokenizer.tokenize("  42") == ["ĠĠ", "4", "2"]
    text = "In 1984,  naïve\n\tx² = 4"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_file_is_converted_once_and_found_again_by_content(gguf_file, capfd, monkeypatch):
    first = converted_directory(gguf_file)
    assert "Converting tiny.gguf once" in capfd.readouterr().err
    monkeypatch.setattr(conversion, "load_gguf", lambda path: pytest.fail("converted again"))
    moved = gguf_file.rename(gguf_file.with_name("renamed.gguf"))
    assert converted_directory(moved) == first
    assert capfd.readouterr().err == ""


def test_a_changed_file_is_another_model(gguf_file):
    first = converted_directory(gguf_file)
    model = tiny_llama()
    with torch.no_grad():
        model.model.norm.weight += 1
    assert converted_directory(write_gguf(gguf_file, model)) != first


@pytest.mark.parametrize("moment", ["save_pretrained", "_move_into_place"])
def test_a_killed_conversion_leaves_nothing_that_is_taken_for_a_model(moment, gguf_file, cache, monkeypatch):
    def killed(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        holder = conversion if moment == "_move_into_place" else conversion.PreTrainedTokenizerBase
        setattr(holder, moment, killed)  # the tokenizer is saved after the weights
        converted_directory(gguf_file)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [name.startswith(".partial-") for name in left_in(cache)] == [True]

    assert is_complete(converted_directory(gguf_file))
    an_hour_later = time.time() + 3700
    monkeypatch.setattr(time, "time", lambda: an_hour_later)
    with conversion.scratch_directory() as scratch:
        assert [name for name in left_in(cache) if name.startswith(".partial-")] == [scratch.name]
    assert len(left_in(cache)) == 1


def test_of_two_conversions_at_once_the_first_to_finish_stays(gguf_file, cache, monkeypatch):
    load_gguf, inner = conversion.load_gguf, []

    def another_process_is_faster(path):
        monkeypatch.setattr(conversion, "load_gguf", load_gguf)
        inner.append(converted_directory(path))
        inner.append((inner[0] / "config.json").stat().st_ino)
        return load_gguf(path)

    monkeypatch.setattr(conversion, "load_gguf", another_process_is_faster)
    target = converted_directory(gguf_file)
    assert inner == [target, (target / "config.json").stat().st_ino]
    assert left_in(cache) == [target.name]


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest"])
def test_a_damaged_copy_is_made_again(damage, gguf_file):
    target = converted_directory(gguf_file)
    weights = target / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "missing":
        (target / "tokenizer.json").unlink()
    else:
        (target / conversion.MANIFEST).write_text(json.dumps([1]))
    assert not is_complete(target)
    assert is_complete(converted_directory(gguf_file))
    assert load_backbone(gguf_file).tokenizer is not None


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(gguf_file, cache):
    converted_size = 200_000  # bytes a file may have: less than the weights, more than the rest
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (converted_size, hard))
    try:
        with pytest.raises(LtmError, match="cannot be written .*LTM_CACHE") as caught:
            converted_directory(gguf_file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert left_in(cache) == []


def test_a_cache_that_cannot_be_made_is_told(gguf_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LTM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(LtmError, match="cannot be written .*set LTM_CACHE to another directory"):
        converted_directory(gguf_file)


def content_of(kind, gguf_file):
    whole = gguf_file.read_bytes()
    return {"empty": b"", "junk": os.urandom(500), "header": whole[:100], "half": whole[: len(whole) // 2]}[kind]


@pytest.mark.parametrize("kind", ["empty", "junk", "header", "half"])
def test_what_is_no_whole_gguf_is_refused_in_one_line(kind, gguf_file, cache):
    gguf_file.write_bytes(content_of(kind, gguf_file))
    with pytest.raises(LtmError, match=r"tiny\.gguf cannot be read as a GGUF model") as caught:
        load_backbone(gguf_file)
    assert "\n" not in str(caught.value)
    assert left_in(cache) == []


def test_a_gguf_without_one_of_its_tensors_is_refused(tmp_path):
    gguf_file = write_gguf(tmp_path / "a.gguf", tiny_llama(), without="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(LtmError, match=r"1 of the model's tensors are missing, such as .*up_proj"):
        load_backbone(gguf_file)


@pytest.mark.parametrize("architecture", ["mamba2", "bert", "rwkv7"])
def test_a_gguf_of_another_architecture_is_told_by_its_name(tmp_path, architecture):
    gguf_file = write_gguf(tmp_path / "a.gguf", tiny_llama(), architecture=architecture)
    told = f"a.gguf holds a model of architecture '{architecture}', which transformers does not load from GGUF; it does"
    with pytest.raises(LtmError, match=rf"{told} load .*gemma3, .*llama, .*qwen3") as caught:
        load_backbone(gguf_file)
    assert "complete file" not in str(caught.value)


def test_a_gguf_that_does_not_exist(tmp_path):
    with pytest.raises(LtmError, match="does not exist"):
        load_backbone(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [("/a", "/b", "/a"), (None, "/b", "/b/ltm"), (None, None, "/home/someone/.cache/ltm")],
)
def test_where_the_cache_is(own, shared, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in (("LTM_CACHE", own), ("XDG_CACHE_HOME", shared)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert str(cache_directory()) == expected
