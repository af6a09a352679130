"""What a result says about where it came from: machine, versions, commit, memory."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import ltm

if TYPE_CHECKING:
    from ltm.methods import Reader

PROBE_TOKENS = 64
"""Tokens that a method reads to show whether it has a bank."""


def machine() -> dict[str, Any]:
    """Processor, cores, threads and GPU."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Versions of what computed the numbers."""
    found = {"ltm": ltm.__version__, "python": platform.python_version()}
    return found | {package: metadata.version(package) for package in ("torch", "transformers", "numpy")}


def commit() -> str | None:
    """The git commit of the library, "-dirty" where tracked files differ; None for an installed package."""
    folder = Path(ltm.__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=30,
        )
        tracked = subprocess.run(["git", "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, cwd=folder)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None if tracked.returncode == 0 else None


def command() -> str:
    """The command line of this process, absolute paths shortened to names."""
    program = Path(sys.argv[0]).name
    words = [re.sub(r"(?<![\w.~])/[^\s:,]*/", "", word) for word in sys.argv[1:]]
    start = ["ltm"] if program in ("ltm", "__main__.py") else ["python", program]
    return " ".join([*start, *map(_quoted, words)])


def _quoted(word: str) -> str:
    return shlex.quote(word) if re.search(r"[\s'\"$&|;<>*?()]", word) else word


def peak_bytes() -> int | None:
    """Most memory that this process has had so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def gpu_peak_bytes() -> int | None:
    """Most GPU memory since `reset_gpu_peak`; None without a GPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def reset_gpu_peak() -> None:
    """Count the GPU's peak anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def bytes_per_token(method: Reader) -> float | None:
    """Bytes that each remembered token takes: a bank's entries, or what a stream without an end keeps.

    None for a method that keeps nothing beyond its window, or in a form that this cannot see. Forgets what was read.
    """
    method.reset()
    method.read(torch.zeros(1, PROBE_TOKENS, dtype=torch.long, device=method.device))
    bank = method.bank
    holds = bank is not None and bank.num_rows > 0 and bank.num_tokens(0) > 0
    method.reset()
    if bank is not None:
        if not holds:
            return None
        of_events = bank.layout.bytes_per_event / bank.config.event_tokens  # at most: 0 without events
        return bank.layout.bytes_per_chunk / bank.config.chunk_size + of_events
    return method.stream_bytes_per_token


def trained_hash(method: Reader) -> str | None:
    """sha256 of a method's trained weights; None where it has none."""
    state = method.trained_state()
    if not state:
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
