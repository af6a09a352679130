"""Checkpoints: all a run needs to go on as if it had never stopped. Safetensors and JSON, never a pickle.

checkpoints/step-00000300/
    state.json              step, tokens, seconds, stage, learner, the backbone's identity; written last
    weights.safetensors     trained weights, float32
    optimizer.safetensors   AdamW's means
    process-0/              one for each process:
        stream.json         where each row is in its document
        random.json         random states of Python and NumPy
        random.safetensors  random states of torch, on the CPU and the device
        memory/             what was read
        learner.safetensors what a learner keeps
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltm.backbone import Fingerprint
from ltm.errors import LtmError
from ltm.training.learner import Learner

from .optimizer import load_optimizer_tensors, optimizer_tensors
from .run import Run
from .state import TrainState

FOLDER = "checkpoints"
STATE_FILE = "state.json"
PARTIAL = ".partial"


def list_checkpoints(out_dir: str | Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = Path(out_dir, FOLDER).glob("step-*")
    return sorted(path for path in found if path.suffix != PARTIAL and (path / STATE_FILE).is_file())


class Checkpointer:
    """Saves and restores one run; every process calls it at the same steps.

    out_dir: the run's folder, which all processes must see; keep: newest checkpoints to keep.
    """

    def __init__(self, run: Run, out_dir: Path, *, keep: int):
        self.run, self.folder, self.keep = run, out_dir / FOLDER, keep

    def save(self) -> Path:
        """Write a checkpoint beside the others and rename it once whole; returns its path. Raises LtmError where it
        cannot be written."""
        accelerator = self.run.accelerator
        final = self.folder / f"step-{self.run.state.step:08d}"
        partial = final.with_suffix(PARTIAL)
        try:
            if accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            accelerator.wait_for_everyone()
            self._write_process(partial / f"process-{accelerator.process_index}")
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                self._write_shared(partial)
                shutil.rmtree(final, ignore_errors=True)
                os.replace(partial, final)
                self._prune()
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise LtmError(
                f"could not save {final}: {error}; free space there, earlier checkpoints are whole"
            ) from error
        accelerator.wait_for_everyone()
        return final

    def load(self, path: Path) -> None:
        """Put everything back as it was.

        Raises LtmError for damaged files, another number of processes, other data, or another method, learner or
        backbone.
        """
        try:
            state = json.loads((path / STATE_FILE).read_text())
            self._check(state, path)
            self.run.state = TrainState(**{f.name: state[f.name] for f in fields(TrainState) if f.name in state})
            self._read_shared(path)
            self._check_backbone(state, path)
            self.run.begin_stage()
            self._read_process(path / f"process-{self.run.accelerator.process_index}")
        except LtmError:
            raise
        except (OSError, SafetensorError, ValueError, KeyError, IndexError) as error:
            raise LtmError(f"{path} is damaged ({error}); remove it to go on from the checkpoint before it") from error

    def _check(self, state: dict[str, Any], path: Path) -> None:
        if state["processes"] != self.run.accelerator.num_processes:
            raise LtmError(
                f"{path} was saved by {state['processes']} processes, this run has "
                f"{self.run.accelerator.num_processes}; start as many as before"
            )
        if state.get("learner", Learner.name) != self.run.learner.name:
            raise LtmError(
                f"{path} was saved with learner {state['learner']}, this run has {self.run.learner.name}; resume with "
                "the learner it had"
            )
        if state.get("stage", 0) >= len(self.run.streams):
            raise LtmError(
                f"{path} is in stage {state['stage'] + 1}, but there are {len(self.run.streams)}; give the data of all"
            )

    def _check_backbone(self, state: dict[str, Any], path: Path) -> None:
        """With what was trained of it put back, the backbone must be the one that the run had."""
        if "fingerprint" not in state:  # of an earlier version
            return
        saved = Fingerprint.from_dict(state["fingerprint"])
        if differences := saved.differences(self.run.method.backbone.fingerprint):
            told = "; ".join(line.replace(": bank ", ": checkpoint ") for line in differences)
            raise LtmError(f"{path} was saved beside another backbone: {told}; resume with the one it had")

    def _write_shared(self, path: Path) -> None:
        run = self.run
        weights = {name: p.detach().float().cpu().contiguous() for name, p in run.parameters.items()}
        _write_tensors(path / "weights.safetensors", weights)
        _write_tensors(path / "optimizer.safetensors", optimizer_tensors(run.optimizer, run.parameters))
        more = {"processes": run.accelerator.num_processes, "learner": run.learner.name}
        identity = {"fingerprint": run.method.backbone.fingerprint.to_dict()}
        _write_json(path / STATE_FILE, {**asdict(run.state), **more, **identity})

    def _read_shared(self, path: Path) -> None:
        weights, parameters = load_file(path / "weights.safetensors"), self.run.parameters
        shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
        if shapes != {name: list(p.shape) for name, p in parameters.items()}:
            raise LtmError(f"{path} belongs to a method with other weights; resume with the method and config it had")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        load_optimizer_tensors(self.run.optimizer, parameters, load_file(path / "optimizer.safetensors"))

    def _write_process(self, path: Path) -> None:
        path.mkdir()
        run = self.run
        _write_json(path / "stream.json", run.stream.state_dict())
        numbers, tensors = random_state()
        _write_json(path / "random.json", numbers)
        _write_tensors(path / "random.safetensors", tensors)
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in run.learner.state_dict().items()}
        _write_tensors(path / "learner.safetensors", kept)
        if run.memory is not None:
            run.memory.save(path / "memory")

    def _read_process(self, path: Path) -> None:
        run = self.run
        run.stream.load_state_dict(json.loads((path / "stream.json").read_text()))
        if run.memory is not None:  # read whole: the checkpoint that it lies in is removed in time
            run.memory = run.method.load_memory(path / "memory", mmap=False)
        if (path / "learner.safetensors").exists():  # not of an earlier version
            run.learner.load_state_dict(load_file(path / "learner.safetensors"))
        numbers = json.loads((path / "random.json").read_text())
        set_random_state(numbers, load_file(path / "random.safetensors"))

    def _prune(self) -> None:
        """Remove what is older than the newest `keep`, and what a killed run left half-written."""
        for path in list_checkpoints(self.folder.parent)[: -self.keep]:
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(f"*{PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)


def random_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of every random generator that a method may use: numbers for JSON, and tensors."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return {"python": [python[0], list(python[1]), python[2]], "numpy": numpy}, tensors


def set_random_state(numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Put back what `random_state` gave."""
    version, internal, gauss = numbers["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy = numbers["numpy"]
    numpy["state"]["key"] = np.array(numpy["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy)
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)
        _sync(file)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, path)
    with open(path, "rb+") as file:
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
