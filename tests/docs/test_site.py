"""The site builds, with every link, anchor and included file checked; where mkdocs is installed (`make docs`)."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the extra docs: make docs")
def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    pages = {page.relative_to(tmp_path / "site").as_posix() for page in (tmp_path / "site").rglob("index.html")}
    assert {"index.html", "guide/index.html", "results/index.html", "api/ltm.methods/index.html"} <= pages
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "Families of methods" in home and 'src="pictures/memory.png"' in home
