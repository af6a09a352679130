"""What a method saves: its trained tensors as safetensors beside a JSON config. Never the backbone, never a pickle.

Weights can be stored in float32, bfloat16 or int8. Int8 is symmetric with one float32 scale for each row of a matrix
(|error| at most half a step, a step being 1/127 of the row's largest weight); vectors stay float32.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from ltm.decode_json import typed
from ltm.errors import LtmError, error_line

CONFIG_FILE = "ltm_method.json"
WEIGHTS_FILE = "ltm_method.safetensors"
CHECKPOINT_FILE = "model.safetensors"
"""What transformers' Trainer calls the file of a state dict."""
RECORD = "ltm_method"
"""Under this name a state dict has its record: the UTF-8 bytes of JSON, as a tensor."""
STORAGE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
SCALE_SUFFIX = ".row_scale"


def pack(state: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Tensors as they are stored under one of STORAGE_DTYPES; int8 adds a scale beside each matrix."""
    if dtype not in STORAGE_DTYPES:
        raise LtmError(f"cannot store weights as {dtype!r}; use one of {', '.join(STORAGE_DTYPES)}")
    packed = {}
    for name, tensor in state.items():
        tensor = tensor.detach().float().cpu()
        if dtype == "int8" and tensor.dim() == 2:
            scale = tensor.abs().amax(dim=1).clamp(min=1e-12) / 127  # [rows]
            packed[name] = (tensor / scale[:, None]).round().to(torch.int8)
            packed[name + SCALE_SUFFIX] = scale
        else:
            packed[name] = tensor.to(torch.bfloat16 if dtype == "bfloat16" else torch.float32).contiguous()
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """float32 tensors from what `pack` made; ValueError where codes and scales do not fit."""
    scales = {name: tensor for name, tensor in packed.items() if name.endswith(SCALE_SUFFIX)}
    state = {}
    for name, tensor in packed.items():
        if name in scales:
            continue
        scale = scales.get(name + SCALE_SUFFIX)
        if scale is not None and scale.shape != tensor.shape[:1]:
            raise ValueError(f"{name} has {list(tensor.shape)} codes, but {list(scale.shape)} scales")
        state[name] = tensor.float() if scale is None else tensor.float() * scale[:, None]
    return state


def write_directory(path: str | Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write config and weights into a directory; each file is written beside and renamed, the config last."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path, prefix=".saving-"))
    try:
        # bytes through Path, because save_file makes the file readable for its owner only
        (scratch / WEIGHTS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))
        (scratch / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            os.replace(scratch / name, path / name)
    except OSError as error:
        raise LtmError(
            f"could not save to {path}: {error.strerror or error}; what was there before is unchanged"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def record_tensor(config: dict[str, Any]) -> Tensor:
    """A JSON config as a tensor."""
    return torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)


def read_config(path: str | Path) -> dict[str, Any]:
    """The JSON config of a saved method or a Trainer's checkpoint; LtmError where there is none or it is damaged."""
    file = Path(path) / CONFIG_FILE
    try:
        text = file.read_text("utf-8") if file.is_file() else _record_of(Path(path) / CHECKPOINT_FILE)
        if text is None:
            raise LtmError(
                f"{path} holds no saved method ({CONFIG_FILE} is missing); give a directory made by save_pretrained"
            )
        config = typed(dict[str, Any], json.loads(text), "it")
        for name, kind in _CONFIG_KINDS.items():
            typed(kind, config.get(name), f"its {name}")
    except LtmError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        raise LtmError(f"{file} is damaged ({error_line(error)}); restore it or train again") from error
    return config


_CONFIG_KINDS: dict[str, Any] = {
    "method": str,
    "method_config": dict[str, Any],
    "fingerprint": dict[str, Any],
    "backbone": str | None,
}


def _record_of(checkpoint: Path) -> str | None:
    """The record in a Trainer's checkpoint; None where there is no such, or it is of no method."""
    if not checkpoint.is_file():
        return None
    try:
        with safe_open(checkpoint, framework="pt") as tensors:
            return tensors.get_tensor(RECORD).numpy().tobytes().decode() if RECORD in tensors.keys() else None  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{checkpoint.name}: {error}") from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The stored tensors, as float32; LtmError where the file is missing or damaged, or holds what is no number."""
    file = Path(path) / WEIGHTS_FILE
    if not file.is_file() and not (Path(path) / CONFIG_FILE).is_file():
        file = Path(path) / CHECKPOINT_FILE
    if not file.is_file():
        raise LtmError(f"{file} is missing; restore it or train again")
    try:
        tensors = load_file(file)
        tensors.pop(RECORD, None)
        state = unpack(tensors)
    except (SafetensorError, OSError, ValueError) as error:
        raise LtmError(f"{file} is damaged ({error_line(error)}); restore it or train again") from error
    if wrong := [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]:
        raise LtmError(
            f"{file} holds NaN or infinite numbers in {len(wrong)} of its tensors, such as {wrong[0]}; restore it or "
            "train again"
        )
    return state
