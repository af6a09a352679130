"""train_config.json: what a run was, so that its result explains itself."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.errors import LtmError
from ltm.methods.storage import CONFIG_FILE, WEIGHTS_FILE

from .log import LOG_FILE

if TYPE_CHECKING:
    from .loop import Trainer

RECORD_FILE, PLOT_FILE = "train_config.json", "loss.png"


def check_out(out_dir: Path) -> None:
    """Refuse a folder that holds files which a run would write over and which no run has written."""
    if _is_record(out_dir / RECORD_FILE):
        return
    names = (RECORD_FILE, LOG_FILE, PLOT_FILE, CONFIG_FILE, WEIGHTS_FILE)
    there = [name for name in names if os.path.lexists(out_dir / name)]
    if there:
        raise LtmError(f"{out_dir} holds {', '.join(there)}, not of a training run; choose another folder")


def _is_record(path: Path) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"command", "method", "num_trainable", "config"} <= set(values)


def write_run_record(out_dir: Path, trainer: Trainer) -> Path:
    """Write config, command, versions, device and data of a run; LtmError where that fails."""
    path = out_dir / RECORD_FILE
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_record(trainer), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LtmError(f"cannot write to {out_dir} ({error.strerror or error}); choose another folder") from error
    return path


def _record(trainer: Trainer) -> dict[str, Any]:
    return {
        "command": shlex.join(sys.argv),
        "method": type(trainer.method).__name__,
        "num_trainable": sum(parameter.numel() for parameter in trainer.parameters.values()),
        "config": trainer.config.to_dict(),
        "precision": trainer.precision,
        "device": str(trainer.device),
        "processes": trainer.accelerator.num_processes,
        "data": trainer.stream.describe(),
        "versions": {
            "python": platform.python_version(),
            **_versions("ltm", "torch", "transformers", "accelerate"),
        },
    }


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
