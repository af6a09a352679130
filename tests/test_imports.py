"""Who imports whom: no circles, and arrows that point down only (docs/design.md, "Packages")."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

import ltm

ROOT = Path(ltm.__file__).parent

ORDER = [
    "ground",
    "data",
    "backbone",
    "attention",
    "bank",
    "streams",
    "notes",
    "training",
    "methods",
    "learning",
    "tasks",
    "text",
    "bench",
    "serve",
    "cli",
]
"""Packages from the ground up: each may import those before it. `ground` is what lies in ltm itself."""


def modules() -> dict[str, Path]:
    """Every module of the library by its dotted name; a package is the module of its __init__."""
    found = {}
    for file in ROOT.rglob("*.py"):
        parts = ("ltm", *file.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(tree: ast.Module, module: str, known: set[str]) -> set[str]:
    """The modules of the library that a module imports, anywhere in it but for type checking alone."""
    is_package = any(name.startswith(f"{module}.") for name in known)
    parent = module if is_package else module.rpartition(".")[0]
    found: set[str] = set()
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), parent)
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= inner & known if inner & known else {base}
        is_for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        left += node.orelse if is_for_types else ast.iter_child_nodes(node)
    return found & known - {module}


@cache
def graph() -> dict[str, set[str]]:
    files = modules()
    known = set(files) - {"ltm"}  # what its __init__ names is imported when it is asked for
    return {name: imports(ast.parse(files[name].read_text()), name, known) for name in sorted(known)}


def package_of(module: str) -> str:
    part = module.split(".")[1]
    return part if (ROOT / part).is_dir() else "cli" if part == "__main__" else "ground"


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that reach each other, each sorted (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        path.append(module)
        for other in arrows.get(module, ()):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in path:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            at = path.index(module)
            component, path[at:] = path[at:], []
            if len(component) > 1:
                found.append(sorted(component))

    for module in arrows:
        if module not in number:
            visit(module)
    return found


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c"]]
    tree = ast.parse("if TYPE_CHECKING:\n    import ltm.a\nelse:\n    import ltm.b\ndef f():\n    from ltm import c")
    assert imports(tree, "ltm.d", {"ltm.a", "ltm.b", "ltm.c"}) == {"ltm.b", "ltm.c"}


def test_no_circles():
    assert circles(graph()) == []


def test_every_package_has_its_place():
    assert {package_of(module) for module in graph()} <= set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_arrows_point_down(package):
    above = set(ORDER[ORDER.index(package) + 1 :])
    upward = {
        (module, imported)
        for module, names in graph().items()
        if package_of(module) == package
        for imported in names
        if package_of(imported) in above
    }
    assert sorted(upward) == []
