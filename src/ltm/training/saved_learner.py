"""What a learner keeps, beside the weights that it kept: another run can go on from both."""

from __future__ import annotations

import json
from pathlib import Path

import ltm
from ltm.errors import LtmError, error_line
from ltm.training.learner import Learner

CONFIG_FILE, STATE_FILE = "ltm_learner.json", "ltm_learner.safetensors"


def save_learner(learner: Learner, path: str | Path) -> None:
    """Write a learner's name, config and state to a directory; nothing of plain training. Raises LtmError where that
    fails."""
    from safetensors.torch import save_file

    if learner.name == Learner.name:
        return
    record = {"learner": learner.name, "ltm_version": ltm.__version__, "config": learner.describe()}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in learner.state_dict().items()}
    try:
        save_file(state, Path(path) / STATE_FILE)
        (Path(path) / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LtmError(f"could not save to {path}: {error.strerror or error}; choose another folder") from error


def kept_learner(path: str | Path) -> str | None:
    """The name of the learner that kept something in a directory; None: none did."""
    file = Path(path) / CONFIG_FILE
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["learner"]) if file.is_file() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LtmError(f"{file} is damaged ({error_line(error)}); remove it to go on without") from error


def continue_learner(learner: Learner, path: str | Path) -> None:
    """Let a learner go on with what one of the same name kept in a directory. Raises LtmError where that is another's
    or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if (name := kept_learner(path)) != learner.name:
        raise LtmError(f"{path} was trained with learner {name}, not with {learner.name}; go on with the same")
    try:
        learner.inherited = load_file(Path(path) / STATE_FILE)
    except (OSError, SafetensorError) as error:
        raise LtmError(f"{Path(path) / STATE_FILE} is damaged ({error_line(error)}); train anew") from error
