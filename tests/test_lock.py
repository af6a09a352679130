"""What the README's commands install is locked, fits pyproject's bounds, and names no place to take it from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")
TORCH = (ROOT / "requirements" / "torch.txt").read_text(encoding="utf-8")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def declared() -> list[Requirement]:
    """Every dependency in pyproject.toml, extras included (Python 3.10 has no reader of TOML)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.findall(
        r"^(?:dependencies|faiss|qdrant|peft|server|plot|dev) = \[(.*?)\](?: #[^\n]*)?$", text, re.M | re.S
    )
    named = [entry for part in lists for entry in re.findall(r'"([^"]+)"', part)]
    return [Requirement(entry) for entry in named if not entry.startswith("ltm[")]


def environment(python: str) -> dict[str, str]:
    """What markers are judged by: Linux with this Python."""
    return {**default_environment(), "python_version": python, "python_full_version": f"{python}.9", "extra": ""}


def locked(python: str) -> dict[str, str]:
    """Name to version, as Linux with this Python would install."""
    env = environment(python)
    chosen = [line for line in requirements(LOCK + TORCH) if line.marker is None or line.marker.evaluate(env)]
    versions = {line.name: next(iter(line.specifier)).version for line in chosen}
    assert len(versions) == len(chosen), "a package is locked twice for one Python"
    return versions


@pytest.mark.parametrize("python", PYTHONS)
def test_everything_declared_is_locked_within_its_bounds(python):
    versions = locked(python)
    assert len(declared()) > 25
    for requirement in declared():
        if requirement.name == "pip":  # every environment brings it
            continue
        if requirement.marker is not None and not requirement.marker.evaluate(environment(python)):
            continue
        assert requirement.name in versions, f"{requirement.name} is not in the lock; run make lock"
        assert requirement.specifier.contains(versions[requirement.name]), (
            f"{requirement}: {versions[requirement.name]}"
        )


def test_every_dependency_has_an_upper_bound():
    """But pip, which is a tool that each environment has already."""
    for requirement in declared():
        assert requirement.name == "pip" or re.search(r"<|==", str(requirement.specifier)), requirement


def test_the_lock_names_no_host_and_pins_each_line():
    assert "://" not in LOCK + TORCH and "--" not in LOCK
    assert all(str(line.specifier).startswith("==") for line in requirements(LOCK))
