"""One name, one thing: no two classes of the library share a name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import ltm

ROOT = Path(ltm.__file__).parent
TEMPLATES = ROOT / "cli" / "templates"
"""Each of these is a method of the same name, to be filled in."""


def test_no_two_classes_have_one_name():
    places = defaultdict(list)
    for file in sorted(ROOT.rglob("*.py")):
        if TEMPLATES not in file.parents:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(file.relative_to(ROOT).as_posix())
    assert len(places) > 200
    assert {name: own for name, own in places.items() if len(own) > 1} == {}


def test_no_two_test_files_have_one_name():
    """pytest imports them by their basename: the second would stop the whole run."""
    places = defaultdict(list)
    for file in sorted(Path(__file__).parent.rglob("test_*.py")):
        places[file.name].append(file)
    assert {name: own for name, own in places.items() if len(own) > 1} == {}
