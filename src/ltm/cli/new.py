"""ltm new: a method to fill in, with its config, its card and its test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ltm.cli.declared import new_app
from ltm.console import next_step, notice, shown
from ltm.errors import LtmError, unknown_name
from ltm.learning.registry import LEARNERS
from ltm.methods import METHODS
from ltm.outputs import write_output
from ltm.registry import Registry

TEMPLATES = Path(__file__).parent / "templates"

app = new_app()


class Family(NamedTuple):
    """Where a family's methods lie in a checkout, and the registry that knows them."""

    package: str
    tests: str
    registry: Registry[Any]


FAMILIES = {
    **{
        name: Family(f"ltm.methods.{name}", f"tests/methods/{name}", METHODS)
        for name in ("attention", "cache", "recurrent", "parametric", "retrieval", "text")
    },
    "learner": Family("ltm.learning", "tests/learning", LEARNERS),
}


@app.command(epilog="Try: ltm new cache my_rule")
def new(
    family: Annotated[str, typer.Argument(help=f"One of: {', '.join(FAMILIES)}.")],
    name: Annotated[str, typer.Argument(help="What the method is called: small letters, as in my_method.")],
    folder: Annotated[
        Path, typer.Option("--into", help="A checkout of ltm, or a folder of a package of yours.")
    ] = Path("."),
) -> None:
    """Write a method to fill in: its file with config and card, and its test.

    What is written works as it stands: the smallest method of its family. In a checkout of ltm it lies among the others
    and their contract tests run it; elsewhere an entry point makes it known.
    """
    if family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    _check_name(name, FAMILIES[family])
    module, files = _placed(FAMILIES[family], name, folder)
    if there := [str(file) for file in files if file.exists()]:
        raise LtmError(f"{', '.join(there)}: there already; give another name")
    for file, template in zip(files, (f"{family}.py", f"test_{family}.py"), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_output(file, _filled_in(template, name, module, family), lambda _: False, "a method")
        print(shown(str(file)))
    if module == name:
        notice("ltm knows it once your package is installed with these lines in pyproject.toml:")
        notice(f'    [project.entry-points."{FAMILIES[family].registry.group}"]')
        notice(f'    {name} = "{name}"')
    next_step("python", "-m", "pytest", files[1])


def _check_name(name: str, family: Family) -> None:
    """Refuse what is no name of a module, and names that are taken."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise LtmError(f"{name!r} cannot be a module's name; use small letters, digits and _, as in my_method")
    if name in family.registry:
        raise LtmError(f"there is a {family.registry.kind} called {name}; give another name")


def _placed(family: Family, name: str, folder: Path) -> tuple[str, tuple[Path, Path]]:
    """The dotted name of the module, and where it and its test go."""
    if (folder / "src" / "ltm" / "methods").is_dir():
        module = f"{family.package}.{name}"
        return module, (folder / "src" / f"{module.replace('.', '/')}.py", folder / family.tests / f"test_{name}.py")
    return name, (folder / f"{name}.py", folder / f"test_{name}.py")


def _filled_in(template: str, name: str, module: str, family: str) -> str:
    """A template's text with the method's own names."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    title = "".join(part.capitalize() for part in name.split("_"))
    return text.replace(f"ltm.cli.templates.{family}", module).replace("NewMethod", title).replace("new_method", name)
