"""ltm new: what it writes works as it stands, inside a checkout and in a package of somebody's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import one_line

import ltm
from ltm.cli.new import FAMILIES, TEMPLATES
from ltm.registry import Registry

ROOT = Path(ltm.__file__).parents[2]
CONTRACTS = {
    "attention": ["test_contract.py"],
    "cache": ["test_contract.py", "test_cache_rule.py"],
    "recurrent": ["test_contract.py", "test_recurrent.py"],
    "parametric": ["test_contract.py", "test_parametric.py"],
    "retrieval": ["test_text.py"],
    "text": ["test_text.py"],
    "learner": ["test_learner.py"],
}
"""The suites that a family's methods have to pass."""


def pytest_in(folder: Path, *arguments: str) -> None:
    """Run pytest in another process that finds the folder's package, and what it says if it fails."""
    path = os.pathsep.join([str(folder), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-3000:] + done.stderr[-2000:]


def install(folder: Path, family: str, name: str) -> None:
    """What installing a package with the entry point leaves behind."""
    facts = folder / "theirs-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{FAMILIES[family].registry.group}]\n{name} = {name}\n")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_written_passes_its_own_test(run, tmp_path, family):
    written = run("new", family, "my_method", "--into", tmp_path)
    assert written.code == 0, written.err
    assert written.out.split() == [str(tmp_path / "my_method.py"), str(tmp_path / "test_my_method.py")]
    assert f'[project.entry-points."{FAMILIES[family].registry.group}"]\n    my_method = "my_method"\n' in written.err
    assert f"next: python -m pytest {tmp_path / 'test_my_method.py'}" in written.err
    registry, before = FAMILIES[family].registry, set(sys.modules)
    try:
        assert pytest.main(["-q", "-p", "no:cacheprovider", str(tmp_path)]) == 0
        assert registry["my_method"].__module__ == "my_method"
    finally:
        del registry["my_method"]
        for name in set(sys.modules) - before:
            if name.endswith("my_method"):
                del sys.modules[name]


def test_in_a_checkout_it_lies_among_the_others(run, tmp_path):
    for family, places in FAMILIES.items():
        (tmp_path / "src" / "ltm" / "methods").mkdir(parents=True, exist_ok=True)
        module, test = run("new", family, f"my_{family}", "--into", tmp_path).out.split()
        assert module == str(tmp_path / "src" / places.package.replace(".", "/") / f"my_{family}.py")
        assert test == str(tmp_path / places.tests / f"test_my_{family}.py")
        assert f"from {places.package}.my_{family} import My{family.capitalize()}, " in Path(test).read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("attentoin", "mine"), "did you mean attention?"),
        (("attention", "My-Method"), "use small letters"),
        (("attention", "lambda"), "use small letters"),
        (("attention", "longmem"), "there is a method called longmem"),
    ],
)
def test_names_that_cannot_be_are_refused(run, tmp_path, arguments, words):
    assert words in one_line(run("new", *arguments, "--into", tmp_path)) and not list(tmp_path.iterdir())


def test_nothing_is_written_over(run, tmp_path):
    (tmp_path / "test_mine.py").write_text("mine")
    assert "there already" in one_line(run("new", "attention", "mine", "--into", tmp_path))
    assert (tmp_path / "test_mine.py").read_text() == "mine" and not (tmp_path / "mine.py").exists()


def test_every_family_has_its_templates_and_says_what_its_method_is():
    assert {path.stem for path in TEMPLATES.glob("test_*.py")} == {f"test_{family}" for family in FAMILIES}
    for family in FAMILIES:
        own = Registry("template", "ltm.cli.templates")._places
        assert own["new_method"].file.parent == TEMPLATES
        assert 'card = Card("Authors' in (TEMPLATES / f"{family}.py").read_text().replace("\n        ", "")


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(CONTRACTS))
def test_what_is_written_passes_the_contract_of_its_family(run, tmp_path, family):
    run("new", family, "my_method", "--into", tmp_path)
    install(tmp_path, family, "my_method")
    suites = [str(ROOT / "tests" / "contract" / suite) for suite in CONTRACTS[family]]
    pytest_in(tmp_path, *suites, "-k", "my_method and (tiny-llama or not tiny)")
