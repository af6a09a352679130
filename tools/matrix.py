"""Run the fast tests with the lowest and the newest versions that can be had, each in an environment of its own.

    python tools/matrix.py  # both rows
    python tools/matrix.py newest  # one of them
    python tools/matrix.py --only-set-up  # make the environments, run nothing

`lowest`: every direct dependency at pyproject's lower bound, Python 3.10. `newest`: the newest release of everything,
past pyproject's upper bounds, so that what a release breaks is seen before a user sees it. Environments are made anew
each time in .venv-matrix/. A Python that neither the machine nor uv's own builds have is said and left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".venv-matrix"
SHOWN = ("torch", "transformers", "numpy", "typer", "rich")


class Row(NamedTuple):
    """pythons: minor versions, the first that can be had is taken. past_bounds: without pyproject's upper bounds."""

    pythons: tuple[str, ...]
    resolution: str
    past_bounds: bool


ROWS = {
    "lowest": Row(("3.10",), "lowest-direct", past_bounds=False),
    "newest": Row(("3.14", "3.13", "3.12", "3.11"), "highest", past_bounds=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all where none is named")
    parser.add_argument("--only-set-up", action="store_true")
    parser.add_argument("--workers", default=os.environ.get("WORKERS", "2"))
    options = parser.parse_args()
    unknown = set(options.rows) - set(ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    outcomes = {name: run_row(name, options.workers, options.only_set_up) for name in options.rows or ROWS}
    print("\n".join(f"{name}: {outcome}" for name, outcome in outcomes.items()))
    sys.exit(any(outcome.startswith("failed") for outcome in outcomes.values()))


def run_row(name: str, workers: str, only_set_up: bool) -> str:
    """What came out of one row, in a line."""
    row = ROWS[name]
    found = next(filter(None, map(find_python, row.pythons)), None)
    if found is None:
        return f"not run: no Python {' or '.join(row.pythons)} can be had"
    python = set_up(name, row, found)
    versions = subprocess.run(
        [python, "-c", f"from importlib.metadata import version as v; print(*(f'{{n}} {{v(n)}}' for n in {SHOWN}))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    told = f"Python {python_version(python)}, {versions}"
    print(f"== {name}: {told}", flush=True)
    if only_set_up:
        return told
    tests = [python, "-m", "pytest", "-m", "not slow", "-n", workers, "-q"]
    code = subprocess.run(tests, cwd=ROOT, check=False).returncode
    return f"{'passed' if code == 0 else f'failed (exit {code})'}: {told}"


def set_up(name: str, row: Row, found: str) -> str:
    """An environment with this checkout and its dependencies; the path of its Python."""
    folder = HOME / name
    shutil.rmtree(folder, ignore_errors=True)
    uv("venv", "--quiet", "--python", found, str(folder))
    python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    arguments = ["pip", "install", "--quiet", "--python", python, "--resolution", row.resolution, "-e", f"{ROOT}[dev]"]
    if row.past_bounds:
        (folder / "overrides.txt").write_text(unbounded((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
        arguments += ["--overrides", str(folder / "overrides.txt")]
    uv(*arguments)
    return python


def unbounded(pyproject: str) -> str:
    """The direct dependencies without their upper bounds, a line each."""
    bounded = re.findall(r'"([\w-]+>=[\w.]+),<[\w.]+"', pyproject)
    return "\n".join(bounded) + "\n"


def find_python(version: str) -> str | None:
    """A Python of this minor version that runs: on the path, of pyenv, or one of uv's builds where they can be had."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        if python_version(candidate).startswith(f"{version}."):
            return candidate
    try:
        uv("python", "install", "--quiet", version, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return version


def python_version(python: str) -> str:
    """'3.13.0'; '' where it does not run (a shim without a version behind it)."""
    asked = subprocess.run(
        [python, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True
    )
    return asked.stdout.strip()


def uv(*arguments: str, timeout: float | None = None) -> None:
    subprocess.run([sys.executable, "-m", "uv", *arguments], check=True, timeout=timeout)


if __name__ == "__main__":
    main()
