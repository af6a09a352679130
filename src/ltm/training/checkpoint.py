"""Checkpoints: all a run needs to go on as if it had never stopped. Safetensors and JSON, never a pickle.

checkpoints/step-00000300/
    state.json              step, tokens, seconds, config; written last
    weights.safetensors     trained weights, float32
    optimizer.safetensors   AdamW's means
    process-0/              one for each process:
        stream.json         where each row is in its document
        random.json         random states of Python and NumPy
        random.safetensors  random states of torch, on the CPU and the device
        memory/             the bank
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ltm.errors import LtmError

from .optimizer import load_optimizer_tensors, optimizer_tensors
from .protocol import TrainableMethod, load_memory, save_memory
from .stream import SegmentStream

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

    def __init__(
        self,
        method: TrainableMethod,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        stream: SegmentStream,
        out_dir: Path,
        *,
        keep: int,
    ):
        self.folder, self.accelerator, self.keep = out_dir / FOLDER, accelerator, keep
        self.method, self.parameters, self.optimizer, self.stream = method, parameters, optimizer, stream

    def save(self, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint beside the others and rename it once whole; returns its path.

        state: what `load` gives back; must hold "step". Raises LtmError where it cannot be written.
        """
        final = self.folder / f"step-{state['step']:08d}"
        partial = final.with_suffix(PARTIAL)
        try:
            if self.accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self._write_process(partial / f"process-{self.accelerator.process_index}")
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self._write_shared(partial, {**state, "processes": self.accelerator.num_processes})
                shutil.rmtree(final, ignore_errors=True)
                os.replace(partial, final)
                self._prune()
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise LtmError(
                f"could not save {final}: {error}; free space there, earlier checkpoints are whole"
            ) from error
        self.accelerator.wait_for_everyone()
        return final

    def load(self, path: Path) -> dict[str, Any]:
        """Put everything back as it was; returns the state that was saved.

        Raises LtmError for damaged files, another number of processes, other data, or another method.
        """
        try:
            state = json.loads((path / STATE_FILE).read_text())
            if state["processes"] != self.accelerator.num_processes:
                raise LtmError(
                    f"{path} was saved by {state['processes']} processes, this run has "
                    f"{self.accelerator.num_processes}; start as many as before"
                )
            self._read_shared(path)
            self._read_process(path / f"process-{self.accelerator.process_index}")
        except LtmError:
            raise
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise LtmError(f"{path} is damaged ({error}); remove it to go on from the checkpoint before it") from error
        return dict(state)

    def _write_shared(self, path: Path, state: Mapping[str, Any]) -> None:
        weights = {name: p.detach().float().cpu().contiguous() for name, p in self.parameters.items()}
        _write_tensors(path / "weights.safetensors", weights)
        _write_tensors(path / "optimizer.safetensors", optimizer_tensors(self.optimizer, self.parameters))
        _write_json(path / STATE_FILE, state)

    def _read_shared(self, path: Path) -> None:
        weights = load_file(path / "weights.safetensors")
        shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
        if shapes != {name: list(p.shape) for name, p in self.parameters.items()}:
            raise LtmError(f"{path} belongs to a method with other weights; resume with the method and config it had")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
        load_optimizer_tensors(self.optimizer, self.parameters, load_file(path / "optimizer.safetensors"))

    def _write_process(self, path: Path) -> None:
        path.mkdir()
        _write_json(path / "stream.json", self.stream.state_dict())
        numbers, tensors = random_state()
        _write_json(path / "random.json", numbers)
        _write_tensors(path / "random.safetensors", tensors)
        save_memory(self.method, path / "memory")

    def _read_process(self, path: Path) -> None:
        self.stream.load_state_dict(json.loads((path / "stream.json").read_text()))
        load_memory(self.method, path / "memory")
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
