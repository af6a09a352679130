"""Checks of foreign models, before anything large is made of their numbers and after they are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ltm.errors import short_repr

MOST_LAYERS = 1000
"""Of a model whose weights do not tell how many tensors they have."""
PROBE_TOKENS = 4

_WEIGHTS = (".safetensors", ".bin")
_COUNTED = ("layer", "expert", "label")


def check_config(source: Path) -> None:
    """Raise ValueError where a directory's config.json describes a model that its weights cannot fill.

    The model is built without memory for it, which takes 0.03 s for SmolLM2-135M. transformers would make room for
    every tensor first, and then find it missing.
    """
    special = [path.name for path in source.iterdir() if path.exists() and not (path.is_file() or path.is_dir())]
    if special:
        raise ValueError(f"{special[0]} is no plain file")
    files = [path for path in source.iterdir() if path.suffix in _WEIGHTS]
    tensors = sum(map(_num_tensors, files))
    _check_counts(json.loads((source / "config.json").read_text("utf-8")), max(tensors, MOST_LAYERS))
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    layers = config.get_text_config().num_hidden_layers
    if layers > tensors:
        raise ValueError(f"its config.json has {layers:,} layers, more than its weights have tensors ({tensors:,})")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    held = sum(path.stat().st_size for path in files)
    packed = 8 if getattr(config, "quantization_config", None) else 2
    needed = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if needed > max(packed * held, 2**22):
        raise ValueError(f"its config.json describes {needed:,} numbers, more than its weights hold ({held:,} bytes)")


def _check_counts(values: Any, most: int) -> None:
    """Numbers of layers, experts and labels, which configs make lists of; at any depth of config.json."""
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, int) and value > most and any(part in name for part in _COUNTED):
            raise ValueError(f"its config.json says {name}={short_repr(value)}, more than its weights have tensors")
        _check_counts(value, most)


def _num_tensors(file: Path) -> int:
    if file.suffix != ".safetensors":
        return MOST_LAYERS
    with safe_open(file, framework="pt") as weights:
        return len(weights.keys())


@torch.no_grad()
def not_finite(module: nn.Module) -> list[str]:
    """Names of parameters, and of rotary frequencies, that hold NaN or an infinite number: one pass over the weights,
    0.1 s for 135M. (torch's fused attention hides frequencies that are none from `check_scores`.)"""
    frequencies = ((name, buffer) for name, buffer in module.named_buffers() if name.endswith("inv_freq"))
    return [
        name
        for name, tensor in (*module.named_parameters(), *frequencies)
        if tensor.is_floating_point()
        and tensor.element_size() > 1  # torch computes nothing of 8 bits
        and tensor.numel()
        and not tensor.is_meta
        and not bool(torch.stack(tensor.aminmax()).isfinite().all())
    ]


@torch.no_grad()
def check_scores(model: PreTrainedModel) -> None:
    """Raise whatever the model raises over a few tokens, ValueError where its scores are no numbers: settings such as
    heads, rotary shares or eps are told wrong by nothing else."""
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % model.config.get_text_config().vocab_size
    model.eval()
    if not bool(model(input_ids=ids).logits.isfinite().all()):
        raise ValueError("its scores are not finite numbers; its config.json is not what it was trained with")
