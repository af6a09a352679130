"""What the repository keeps stays light: what a command makes again is not kept."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_BYTES, MOST_PICTURES = 1_000_000, 8
WEIGHTS = "src/ltm/weights/"
ICON = "src/ltm/serve/page/icon.svg"


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("no git checkout here")
    return [path for name in run.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_is_large_but_weights_that_are_shipped(tracked):
    large = [path for path in tracked if path.stat().st_size > MOST_BYTES and WEIGHTS not in path.as_posix()]
    assert not large, "pack records with gzip, and let `make docs` build pages and pictures"


def test_few_pictures_are_kept(tracked):
    pictures = [path.relative_to(ROOT) for path in tracked if path.suffix in (".png", ".jpg", ".gif", ".svg", ".webp")]
    pictures = [path for path in pictures if path.as_posix() != ICON]
    assert 0 < len(pictures) <= MOST_PICTURES
    assert {path.parent for path in pictures} == {Path("docs/pictures")}
    pages = "".join(path.read_text(encoding="utf-8") for path in tracked if path.suffix == ".md")
    assert not [path for path in pictures if path.name not in pages], "a picture that no page shows"
