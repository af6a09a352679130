"""Odd configs, weights and SideNets, made by a seeded hand: each is refused in one line, or works, and no other model
has the same fingerprint. The first cases are in the fast suite, all of them are nightly."""

from __future__ import annotations

import json
import random
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from time_limit import TookTooLong, time_limit

from ltm.backbone import load_backbone
from ltm.backbone.tiny import build_tiny
from ltm.errors import LtmError
from ltm.methods import METHODS, Reader, create_method, load_method

NUM_CASES, FAST_CASES = 500, 40
SEED = 17
SECONDS, MEGABYTES = 20, 1500
IDS = torch.randint(3, 250, (1, 40), generator=torch.Generator().manual_seed(0))
ARCHITECTURES = ("tiny-llama", "tiny-mistral", "tiny-qwen3", "tiny-gemma3", "tiny-gemma2", "tiny-phi3", "tiny-gpt2")
ARCHITECTURES += ("tiny-opt", "tiny-gpt-neox", "tiny-qwen2")

NUMBERS = (0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**21, 10**400, -(10**9), 10**9, 10**6, 1.5, -0.5, 1e300, 1e-320)
NUMBERS += (float("nan"), float("inf"), float("-inf"))
OTHERS = (None, True, False, "", "7", "zork", "auto", "float32", [], {}, [1], [None], {"a": 1}, ["x"] * 9, [[[]]])
EXTRA_KEYS = (
    "quantization_config",
    "auto_map",
    "layer_types",
    "rope_scaling",
    "sliding_window",
    "head_dim",
    "num_experts",
)
QUANTISED = [{"quant_method": kind, "bits": 4, "load_in_4bit": True} for kind in ("awq", "gptq", "bitsandbytes", "hqq")]


@dataclass(frozen=True)
class Base:
    """A sound directory to make odd ones from. original: what a backbone is and says when nothing is changed."""

    path: Path
    config_file: str
    weights_file: str
    original: tuple[Any, torch.Tensor] | None = None


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Base]:
    bases = []
    for name in ARCHITECTURES:
        path = tmp_path_factory.mktemp("model")
        model, tokenizer = build_tiny(name)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        backbone = load_backbone(path, dtype="float32")
        bases.append(Base(path, "config.json", "model.safetensors", (backbone.fingerprint, scores(backbone.model))))
    return bases


@pytest.fixture(scope="module")
def methods(tmp_path_factory) -> list[Base]:
    bases = []
    for name in METHODS.of(Reader):
        method = METHODS[name]
        for dtype in ("float32", "int8") if method.card.needs_training else ("float32",):
            path = tmp_path_factory.mktemp("method")
            made = create_method(name, load_backbone("tiny-llama"), **vars(method.config_class.tiny()))
            made.save_pretrained(path, dtype)
            bases.append(Base(path, "ltm_method.json", "ltm_method.safetensors"))
    return bases


@torch.no_grad()
def scores(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("cases", [range(FAST_CASES)], ids=["fast"])
def test_the_first_odd_cases(cases, models, methods, tmp_path):
    try_all(cases, models, methods, tmp_path)


@pytest.mark.slow
def test_all_odd_cases(models, methods, tmp_path):
    try_all(range(NUM_CASES), models, methods, tmp_path)


def try_all(cases: range, models: list[Base], methods: list[Base], tmp_path: Path) -> None:
    faults, outcomes = [], {"refused": 0, "works": 0, "told apart": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in cases:
        what, outcome = try_case(number, models, methods, tmp_path / str(number))
        if outcome in outcomes:
            outcomes[outcome] += 1
        else:
            faults.append(f"case {number}: {what}: {outcome}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{outcomes}, {grown:.0f} MB")
    assert not faults, "\n".join(faults)
    assert grown < MEGABYTES
    assert min(outcomes.values()) > len(cases) // 40  # each kind is there


def try_case(number: int, models: list[Base], methods: list[Base], path: Path) -> tuple[str, str]:
    """What was made odd, and what came of it: 'refused', 'works', 'told apart', or the fault."""
    hand = random.Random(f"{SEED}-{number}")
    base = hand.choice(models if hand.random() < 0.6 else methods)
    shutil.copytree(base.path, path)
    what = spoil(path, base, hand)
    use = use_model if base.original else use_method
    try:
        with time_limit(SECONDS):
            outcome = use(path, base)
    except LtmError as error:
        outcome = "refused" if "\n" not in str(error) and len(str(error)) < 1500 else f"no short line: {error}"
    except TookTooLong:
        outcome = f"more than {SECONDS} seconds"
    except Exception as error:
        outcome = f"{type(error).__name__}: {str(error)[:200]}"
    shutil.rmtree(path)
    return f"{base.path.name} {what[:200]}", outcome


def use_model(path: Path, base: Base) -> str:
    """Load it: what scores otherwise than the model that nothing was done to must be another backbone."""
    assert base.original is not None
    fingerprint, expected = base.original
    backbone = load_backbone(path, dtype="float32", device="cpu")
    found = scores(backbone.model)
    if not bool(found.isfinite().all()):
        return "scores are not finite"
    same = found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4)
    told = bool(fingerprint.differences(backbone.fingerprint))
    return "works" if same else "told apart" if told else "another model, not told"


@torch.no_grad()
def use_method(path: Path, base: Base) -> str:
    method = load_method(load_backbone("tiny-llama"), path)
    method.read(IDS)
    return "works" if bool(method(IDS[:, :9]).logits.isfinite().all()) else "scores are not finite"


# the hand


def spoil(path: Path, base: Base, hand: random.Random) -> str:
    """Make a directory odd in one way, or two; says how."""
    if hand.random() < 0.15:
        change = hand.choice(FILE_CHANGES)
        return f"{change.__name__} {change(path, base, hand)}"
    file = path / base.config_file
    config = json.loads(file.read_text())
    told = [spoil_value(config, hand) for _ in range(hand.choice((1, 1, 2)))]
    file.write_text(json.dumps(config))
    return ", ".join(told)


def spoil_value(config: dict[str, Any], hand: random.Random) -> str:
    """Change one value of a config, at any depth, or one key."""
    inside = config
    while (nested := [key for key in inside if isinstance(inside[key], dict) and inside[key]]) and hand.random() < 0.7:
        inside = inside[hand.choice(nested)]
    key = hand.choice([*inside, *inside, *(EXTRA_KEYS if hand.random() < 0.2 else ())])
    if hand.random() < 0.1:
        inside.pop(key, None)
        return f"no {key}"
    value = hand.choice(QUANTISED) if key == "quantization_config" else odd(inside.get(key), hand)
    inside[key] = value
    return f"{key}={str(value)[:60]}"


def odd(value: Any, hand: random.Random) -> Any:
    """Another value: often a near one, which may work."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and hand.random() < 0.3:
        return hand.choice(
            (value * 2, value // 2, value + 1, value - 1, -value, float(value), str(value), value * 1000)
        )
    if isinstance(value, list) and value and hand.random() < 0.5:
        return hand.choice((value[:-1], value + value, value[::-1], value * 1000))
    if isinstance(value, str) and hand.random() < 0.4:
        return hand.choice(
            (value[::-1], value.upper(), value * 5000, "gelu", "relu", "linear", "yarn", "dynamic", "llama3")
        )
    return hand.choice(NUMBERS if hand.random() < 0.6 else OTHERS)


def cut(path: Path, base: Base, hand: random.Random) -> str:
    file = hand.choice([file for file in sorted(path.iterdir()) if file.is_file()])
    content = file.read_bytes()
    file.write_bytes(content[: hand.randrange(len(content))])
    return file.name


def scribble(path: Path, base: Base, hand: random.Random) -> str:
    """Bytes in the middle of JSON."""
    file = path / base.config_file
    content = bytearray(file.read_bytes())
    for _ in range(3):
        content[hand.randrange(len(content))] = hand.randrange(256)
    file.write_bytes(content)
    return file.name


def no_object(path: Path, base: Base, hand: random.Random) -> str:
    text = hand.choice(("[]", "null", "7", '"x"', "{}", "", "[" * 100_000, '{"a":' * 50_000, "9" * 9999, "\ufeff{}"))
    (path / base.config_file).write_text(text)
    return text[:10]


def no_number(path: Path, base: Base, hand: random.Random) -> str:
    def spoiled(tensors: dict[str, torch.Tensor]) -> str:
        name = hand.choice([name for name in tensors if tensors[name].is_floating_point()])
        flat = tensors[name].reshape(-1).clone()
        flat[hand.randrange(len(flat))] = float(hand.choice(("nan", "inf", "-inf")))
        tensors[name] = flat.view(tensors[name].shape)
        return name

    return with_tensors(path, base, spoiled)


def other_shape(path: Path, base: Base, hand: random.Random) -> str:
    def spoiled(tensors: dict[str, torch.Tensor]) -> str:
        name = hand.choice(list(tensors))
        tensor = tensors[name]
        tensors[name] = hand.choice((tensor[:0], tensor[:1], tensor[None], tensor.reshape(-1))).clone()
        return f"{name} {list(tensors[name].shape)}"

    return with_tensors(path, base, spoiled)


def other_names(path: Path, base: Base, hand: random.Random) -> str:
    def spoiled(tensors: dict[str, torch.Tensor]) -> str:
        name = hand.choice(list(tensors))
        if hand.random() < 0.7:
            tensors[hand.choice(("zork", name + ".row_scale", "x" * 500))] = tensors[name].clone()
        del tensors[name]
        return name

    return with_tensors(path, base, spoiled)


def with_tensors(path: Path, base: Base, change: Callable[[dict[str, torch.Tensor]], str]) -> str:
    file = path / base.weights_file
    tensors = load_file(file)
    if not tensors:
        return "nothing"
    told = change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return told


def pickled(path: Path, base: Base, hand: random.Random) -> str:
    """Weights as a damaged pickle."""
    (path / base.weights_file).unlink()
    (path / "pytorch_model.bin").write_bytes(hand.randbytes(hand.choice((0, 9, 9000))))
    return "pytorch_model.bin"


FILE_CHANGES = (cut, scribble, no_object, no_number, other_shape, other_names, pickled)
