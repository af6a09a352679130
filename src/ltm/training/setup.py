"""Devices, processes and precision of a run."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator

from ltm.errors import LtmError

from .protocol import TrainableMethod


def make_accelerator(method: TrainableMethod) -> Accelerator:
    """An Accelerator for the processes that there are, on the kind of device that the method is on.

    For the CPU it must be told `cpu=True`: otherwise accelerate takes each process that torchrun starts on a
    machine without a GPU for a run of its own, and all would train apart and write to one folder.
    Raises LtmError where the processes do not find each other.
    """
    accelerator = Accelerator(cpu=device_of(method).type == "cpu")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise LtmError(
            f"{started} processes were started but {accelerator.num_processes} found each other; "
            "start them with torchrun or accelerate launch, and build no Accelerator before"
        )
    return accelerator


def choose_device(method: TrainableMethod, accelerator: Accelerator) -> torch.device:
    """Where to train: a single process stays on the method's device, of several each has its own."""
    return device_of(method) if accelerator.num_processes == 1 else torch.device(accelerator.device)


def device_of(method: TrainableMethod) -> torch.device:
    """The device of a method's first parameter."""
    return next(parameter.device for _, parameter in method.named_parameters())


def choose_precision(wanted: str, method: TrainableMethod, device: torch.device) -> str:
    """'fp32' or 'bf16'; 'auto' is bf16 on a GPU that has it, or beside a bf16 backbone."""
    if wanted != "auto":
        return wanted
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    half = any(parameter.dtype == torch.bfloat16 for _, parameter in method.named_parameters())
    return "bf16" if on_gpu or half else "fp32"
