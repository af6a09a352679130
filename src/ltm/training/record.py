"""train_config.json: what a run was, so that its result explains itself."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from ltm.errors import LtmError
from ltm.facts import versions
from ltm.stored_weights import CONFIG_FILE, WEIGHTS_FILE
from ltm.training import saved_learner as learner_files

from .log import LOG_FILE

RECORD_FILE, PLOT_FILE, BACKBONE_FOLDER = "train_config.json", "loss.png", "backbone"


def check_out(out_dir: Path) -> None:
    """Refuse a folder that holds files which a run would write over and which no run has written."""
    if _is_record(out_dir / RECORD_FILE):
        return
    names = [RECORD_FILE, LOG_FILE, PLOT_FILE, BACKBONE_FOLDER, CONFIG_FILE, WEIGHTS_FILE]
    names += [learner_files.CONFIG_FILE, learner_files.STATE_FILE]
    there = [name for name in names if os.path.lexists(out_dir / name)]
    if there:
        raise LtmError(f"{out_dir} holds {', '.join(there)}, not of a training run; choose another folder")


def _is_record(path: Path) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"command", "method", "num_trainable", "config"} <= set(values)


def write_run_record(out_dir: Path, about: dict[str, Any]) -> Path:
    """Write what a run is, beside the command and the versions that run it; LtmError where that fails."""
    path = out_dir / RECORD_FILE
    record = {"command": shlex.join(sys.argv), **about, "versions": versions("torch", "transformers", "accelerate")}
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LtmError(f"cannot write to {out_dir} ({error.strerror or error}); choose another folder") from error
    return path
