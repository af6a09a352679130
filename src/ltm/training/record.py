"""train_config.json: what a run was, so that its result explains itself."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.errors import LtmError

if TYPE_CHECKING:
    from .loop import Trainer

RECORD_FILE = "train_config.json"


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
