"""What README, docs and result files name is there: scripts and their options, `ltm`, experiments, make, modules."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from ltm.bench.experiments import EXPERIMENTS, Experiment, read_experiment
from ltm.learning.registry import LEARNERS
from ltm.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOW = [page for page in PAGES if page.parent.name not in ("log", "api") and page.name != "bench.md"]
"""The log keeps what was run then: its scripts are there, their options may have gone."""
TRAIN = ("ltm", "train")
"""Its options depend on the method."""


def commands(text: str) -> list[str]:
    """What stands in backticks or in indented or fenced lines and begins as a command does, without comments."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = [found.replace("\n", " ") for found in re.findall(r"`([^`]+)`", prose)]
    lines = [line.strip().removeprefix("$ ").rpartition("| ")[2] for line in text.splitlines()]
    return [
        line.partition("  #")[0].strip() for line in [*inline, *lines] if re.match(r"(ltm|python|make) [\w./]", line)
    ]


def named(pages: list[Path]) -> list[tuple[str, list[str]]]:
    """Page and words of each command."""
    found = []
    for page in pages:
        for line in commands(page.read_text(encoding="utf-8")):
            try:
                found.append((page.name, shlex.split(line.replace("...", ""), comments=True)))
            except ValueError:
                pytest.fail(f"{page.name}: {line} cannot be read as a command line")
    return found


def test_there_are_commands():
    assert len(named(NOW)) > 60 and {page for page, _ in named(NOW)} >= {"README.md", "guide.md", "results.md"}


@pytest.mark.parametrize("pages", [PAGES, NOW], ids=["scripts", "options"])
def test_scripts_are_there_and_know_their_options(pages):
    wrong = []
    for page, words in named(pages):
        if words[0] != "python" or not words[1].endswith(".py"):
            continue
        script = ROOT / words[1]
        text = script.read_text() if script.is_file() else ""
        options = re.findall(r"--[a-z][a-z-]*", " ".join(words[2:])) if pages is NOW else []
        wrong += [] if text else [f"{page}: {words[1]}"]
        wrong += [f"{page}: {words[1]} {option}" for option in options if f'"{option}"' not in text]
    assert not wrong


def test_files_and_folders_that_are_named_are_there():
    wrong = []
    for page in NOW:
        for name in re.findall(r"`([\w./-]+/[\w.-]*)(?= |`)", page.read_text(encoding="utf-8")):
            of_ours = re.match(
                r"(src|tests|docs|benchmarks|tools|requirements|attention|backbone|bank|bench|cache|cli|data|learning|methods|streams|tasks|text|training)/",
                name,
            )
            places = [ROOT / name, ROOT / "src" / "ltm" / name]
            wrong += [f"{page.name}: {name}"] if of_ours and not any(place.exists() for place in places) else []
    assert not wrong


def test_included_files_and_links_are_there():
    wrong, included = [], 0
    for page in [*NOW, *(ROOT / "docs" / "log").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
        places = [page.parent / link for link in links if link and "://" not in link]
        files = [ROOT / name for name in re.findall(r'^--8<-- "([^":]+)"$', text, re.MULTILINE)]
        included += len(files)
        wrong += [
            f"{page.name}: {place}" for place in [*places, *files] if not (place.exists() or "api" in place.parts)
        ]
    assert not wrong
    assert included >= 9, "pages of families show real files; a formatter may have taken what includes them for Python"


def test_the_result_files_name_what_made_them():
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        script = json.loads(file.read_text())["command"].split()[1]
        assert (ROOT / script).is_file(), f"{file.name}: {script}"


def test_ltm_has_these_commands_and_options():
    from ltm.cli.app import app

    wrong = []
    for page, words in named(NOW):
        if words[0] == "ltm":
            wrong += [
                f"{page}: {shlex.join(words)}: {problem}" for problem in unknown(typer.main.get_command(app), words)
            ]
    assert not wrong


def unknown(command, words: list[str]) -> list[str]:
    """Sub-commands and options of a command line that the command has not."""
    rest = words[1:]
    while hasattr(command, "commands") or hasattr(command, "get_command") and rest:
        if not rest or rest[0].startswith("-"):
            return []
        context = typer.Context(command)
        found = command.get_command(context, rest[0])
        if found is None:
            return [rest[0]]
        command, rest = found, rest[1:]
    if words[:2] == list(TRAIN):
        return []
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]


def test_methods_of_the_readmes_families_are_registered():
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Families")[2].partition("\n## ")[0]
    names = [name for line in table.splitlines() if line.startswith("| [") for name in re.findall(r"`(\w+)`", line)]
    assert len(names) > 10 and set(names) <= {*METHODS, *LEARNERS}


def test_experiments_are_there():
    names = [words[3] for _, words in named(NOW) if words[:3] == ["ltm", "bench", "run"] and len(words) > 3]
    names = [name for name in names if not name.startswith("-") and name.isascii() and not name.isupper()]
    assert len(names) > 15
    for name in names:
        assert isinstance(read_experiment(str(ROOT / EXPERIMENTS / f"{name}.toml")), Experiment)


def test_make_has_these_targets():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named_targets = {words[1] for _, words in named(NOW) if words[0] == "make"}
    assert named_targets and named_targets <= set(targets)
