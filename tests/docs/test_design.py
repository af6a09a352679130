"""docs/design.md is true to the code, as far as a test can tell: packages in their order, the size of the core."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "ltm"
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
CORE = [
    "memory.py",
    *(f"streams/{name}.py" for name in ("stream", "window", "open_stream", "memory")),
    *(f"methods/{name}.py" for name in ("method", "reader", "generating")),
]


def test_every_package_is_listed_from_the_ground_up(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests")
    order = [name for name in import_module("test_imports").ORDER if (PACKAGE / name).is_dir()]
    listed = re.findall(r"^      (\w+)/  ", PAGE, re.MULTILINE)
    assert [name for name in listed if name in order] == order
    packages = {folder.name for folder in PACKAGE.iterdir() if any(folder.glob("*.py"))}
    assert packages == set(order)


def test_the_core_is_as_large_as_it_says():
    (said,) = re.findall(r"\(method, reader, generating\): ([\d,]+) lines", PAGE)
    size = sum(len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in CORE)
    assert int(said.replace(",", "")) == pytest.approx(size, rel=0.03), f"docs/design.md: the core has {size:,} lines"
