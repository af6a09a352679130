"""Scripts that no test runs can at least be imported: what they take from the library is there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks/measurements", "tools", "docs/build")
SCRIPTS = [file for folder in FOLDERS for file in sorted((ROOT / folder).glob("*.py"))]
OURS = {file.stem for file in SCRIPTS}
NO_PROGRAMS = {"chat_script", "common", "tables", "commands", "recall_maps", "hooks", "docstrings"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_can_be_imported(script, monkeypatch):
    monkeypatch.syspath_prepend(script.parent)
    spec = importlib.util.spec_from_file_location(f"imported_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look themselves up
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] in {"ltm"} | OURS:
            raise
        pytest.skip(f"needs {error.name}")
    assert module.__doc__
    assert script.stem in NO_PROGRAMS or callable(module.main)
