"""What a result says about where it came from: command, commit, versions, machine, the memory it took."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import ltm


def machine() -> dict[str, Any]:
    """Processor, cores, threads and GPU."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Versions of what computed the numbers, this library and Python included.

    >>> versions("torch")  # doctest: +SKIP
    {'ltm': '0.1.0', 'python': '3.12.3', 'torch': '2.8.0'}
    """
    found = {"ltm": ltm.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


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


def command(program: str | None = None) -> str:
    """The command line of this process, absolute paths shortened to names; program: what it starts with."""
    words = [re.sub(r"(?<![\w.~])/[^\s:,]*/", "", word) for word in sys.argv[1:]]
    called = Path(sys.argv[0]).name
    start = program or ("ltm" if called in ("ltm", "__main__.py") else f"python {called}")
    return " ".join([start, *map(_quoted, words)])


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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
