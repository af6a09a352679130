"""A trained-looking method on a tiny backbone, and a way to run the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ltm.backbone import load_backbone
from ltm.cli import main
from ltm.methods import create_method

OPTIONS = {
    "reduction_factor": 2,
    "chunk_size": 4,
    "retrieved_tokens": 8,
    "segment_size": 32,
    "start": "paper",
}


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """run("bank", "list", path) -> Result."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def sidenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of longmem for tiny-llama, as `ltm train` writes them."""
    path = tmp_path_factory.mktemp("weights") / "sidenet"
    create_method("longmem", load_backbone("tiny-llama"), **OPTIONS).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file."""
    path = tmp_path_factory.mktemp("data") / "moby.txt"
    path.write_text("Call me Ishmael. Some years ago I went to sea. The whale is white.\n" * 6)
    return path


@pytest.fixture
def bank(run: Callable[..., Result], sidenet: Path, book: Path, tmp_path: Path) -> Path:
    """A memory of the book, made by the command."""
    path = tmp_path / "moby.bank"
    result = run("read", book, "-o", path, "--backbone", "tiny-llama", "--sidenet", sidenet)
    assert result.code == 0, result.err
    return path


def one_line(result: Result) -> str:
    """The only line on stderr of a command that failed as it should."""
    assert result.code == 2 and result.out == "", result
    (line,) = result.err.splitlines()
    assert line.startswith("ltm: ") and "Traceback" not in line
    return line
