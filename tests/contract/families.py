"""What the contract suites of families share: tiny backbones, methods of a family, and texts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest
import torch

from ltm.backbone import TINY_ARCHITECTURES, load_backbone
from ltm.methods import METHODS, Reader, load_method

FAST = ("tiny-llama", "tiny-gpt2")
ARCHITECTURES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in TINY_ARCHITECTURES]
"""Two in the fast suite, rotary and learned positions, Linear and Conv1D; all ten at night."""


def cases_of(names: list[str]) -> list:
    """Every method on every architecture, as (name, architecture): in the fast suite on Llama and one other, which a
    hash of its name chooses, so that together they see all; the rest at night."""
    others = sorted(set(TINY_ARCHITECTURES) - {"tiny-llama"})
    chosen = {name: {"tiny-llama", others[crc32(name.encode()) % len(others)]} for name in names}
    return [
        pytest.param((name, one), id=f"{name}-{one}", marks=() if one in chosen[name] else pytest.mark.slow)
        for name in names
        for one in sorted(TINY_ARCHITECTURES)
    ]


CLOSE = {"atol": 1e-5, "rtol": 1e-4}
"""transformers computes norms and rotary angles in float32 whatever the model's dtype."""

# transformers' eager attention, which Gemma 2 needs for its capped logits, makes NaN of padding in float64.
DTYPES = {"tiny-gemma2": "float32"}
NEEDS = {"lora": "peft"}
"""Packages without which a method is left out."""


def methods_of(family: type[Reader]) -> list[str]:
    """Names of the registered methods of a family."""
    return [name for name, method in METHODS.items() if issubclass(method, family)]


def build(name: str, backbone) -> Reader:
    """A method with its tiny config."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"method {name} needs it")
    torch.manual_seed(1)
    return METHODS[name](backbone, METHODS[name].config_class.tiny()).to(backbone.dtype).eval()


def another_backbone(method: Reader, tiny_backbone):
    """One that the method was not built on."""
    return tiny_backbone("tiny-mistral" if method.backbone.name == "tiny-qwen3" else "tiny-qwen3", "float64")


def tokens(rows: int = 2, length: int = 29, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(method: Reader, ids: torch.Tensor, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return method(ids, **kwargs).logits


def far_apart(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two outputs differ by more than rounding."""
    return float((one - other).abs().max()) > 1e-4


def answers_elsewhere(method: Reader, folder: Path, in_another_process: bool = False) -> None:
    """Save a method with what two rows read, and ask it again where both are loaded, on a backbone built anew."""
    method.memory.select([1, 0]).save(folder / "memory")
    method.save_pretrained(folder / "method")
    torch.save(logits(method, tokens(length=7)), folder / "expected.pt")
    if in_another_process:
        command = f"from contract.families import ask_again; ask_again({str(folder)!r}, {method.backbone.name!r})"
        subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parents[1])
    else:
        ask_again(str(folder), method.backbone.name)


def ask_again(folder: str, backbone_name: str) -> None:
    """What another process does with what `answers_elsewhere` saved."""
    backbone = load_backbone(backbone_name, dtype=DTYPES.get(backbone_name, "float64"))
    method = load_method(backbone, f"{folder}/method", trainable=True).to(backbone.dtype).eval()
    memory = method.load_memory(f"{folder}/memory")
    found = logits(method, tokens(length=7), memory=memory.select([1, 0]))
    torch.testing.assert_close(found, torch.load(f"{folder}/expected.pt"), **CLOSE)
