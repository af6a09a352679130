"""Things by name, each imported when it is first asked for: methods, tasks, learners, writers.

A module says by a decorator which of its classes goes by which name; whatever has no such decorator (a base class, a
helper beside a method, a `reader.py` in a method's folder) is simply no entry. So names come from the files as they
stand, in the package and in its folders, and listing them imports nothing:

>>> @register("tova")  # doctest: +SKIP
... class Tova(CacheRule):
...     card = Card("Oren et al., 2024, arXiv:2401.06104", "the token that is least attended to leaves", "")

Other packages add theirs by an entry point of the registry's group, under the name that their class registers:

    [project.entry-points."ltm.methods"]
    mine = "my_package.mine"
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from ltm.errors import unknown_name

_DECORATOR = re.compile(r'^@(?:\w+\.)*register\("(?P<name>\w+)"\)', re.MULTILINE)

Thing = TypeVar("Thing", bound=type)


@dataclass(frozen=True)
class Card:
    """Where a method comes from and what to know of it: what `ltm methods` and docs/methods.md print.

    paper: authors, year, arXiv number, "" for a baseline; claim: what it promises; differs: what is otherwise here;
    needs_training: has weights of its own; deletion: what of a deleted document stays elsewhere in its memories, ""
    where nothing does. All values are literals: cards are read from the file, which is not imported for it.
    """

    paper: str
    claim: str
    differs: str
    needs_training: bool = False
    deletion: str = ""


class _Place(NamedTuple):
    """The module that registers a name, and its file."""

    module: str
    file: Path


class Registry(MutableMapping[str, Thing], Generic[Thing]):
    """A mapping from names to classes; its values are imported one by one, as they are asked for.

    kind: what errors call an entry ("method"); package: dotted name of the package whose files register entries;
    group: entry points by which other packages add to it, "" for none.

    >>> sorted(Registry("task", "ltm.tasks"))[:2]
    ['in_context', 'long_text']
    """

    def __init__(self, kind: str, package: str, group: str = ""):
        self.kind, self.package, self.group = kind, package, group
        self._loaded: dict[str, Thing] = {}

    def register(self, name: str) -> Callable[[Thing], Thing]:
        """Class decorator: make a class known by a name, which becomes its attribute `name`."""

        def note(thing: Thing) -> Thing:
            if name in self._loaded:
                raise RuntimeError(f"two {self.kind}s are called {name}")
            self[name] = thing
            return thing

        return note

    def names(self) -> list[str]:
        """All names in order; imports nothing."""
        return sorted({*self._places, *self._loaded})

    def card(self, name: str) -> Card:
        """The card of an entry; read from its file, unless it is imported already. LtmError for an unknown name."""
        if name in self._loaded:
            return self._loaded[name].card  # type: ignore[attr-defined]
        return _read_card(self._place(name).file, name)

    def cards(self) -> dict[str, Card]:
        """Every entry's card, by name."""
        return {name: self.card(name) for name in self.names()}

    def of(self, base: type) -> list[str]:
        """The names of what inherits a class: a family's methods. Imports all."""
        return [name for name, thing in self.items() if issubclass(thing, base)]

    def __getitem__(self, name: str) -> Thing:
        if name not in self._loaded:
            place = self._place(name)
            import_module(place.module)
            if name not in self._loaded:
                raise RuntimeError(f"{place.module} registers no {self.kind} {name}")
        return self._loaded[name]

    def __setitem__(self, name: str, thing: Thing) -> None:
        thing.name = name  # type: ignore[attr-defined]
        self._loaded[name] = thing

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._loaded or name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise unknown_name(self.kind, name, self.names())
        return self._places[name]

    @cached_property
    def _places(self) -> dict[str, _Place]:
        """Where each name is registered; the package's own names win."""
        return {**self._outside(), **_registered(self.package)}

    def _outside(self) -> dict[str, _Place]:
        found = {}
        for entry in entry_points(group=self.group) if self.group else ():
            file = _module_file(entry.module)
            if file is not None:
                found[entry.name] = _Place(entry.module, file)
        return found


def _registered(package: str) -> dict[str, _Place]:
    """The names that a package's files register, in whatever folder they lie."""
    found: dict[str, _Place] = {}
    for root in _folders(package):
        for file in sorted(root.rglob("*.py")):
            for match in _DECORATOR.finditer(file.read_text(encoding="utf-8")):
                parts = [part for part in file.relative_to(root).with_suffix("").parts if part != "__init__"]
                found[match["name"]] = _Place(".".join([package, *parts]), file)
    return found


def _folders(package: str) -> list[Path]:
    """Where a package's files lie. Only the first part of its name is looked up, which imports nothing."""
    top, *rest = package.split(".")
    spec = find_spec(top)
    folders = None if spec is None else spec.submodule_search_locations
    return [Path(folder, *rest) for folder in folders or ()]


def _module_file(module: str) -> Path | None:
    """The file of a module that is not imported for it; None where it is not to be found."""
    package, _, stem = module.rpartition(".")
    spec = None if package else find_spec(stem)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin)
    places = [folder / stem for folder in (_folders(package) if package else ())]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return next((file for file in files if file.is_file()), None)


def _read_card(file: Path, name: str) -> Card:
    """The card in the body of the class that registers a name, or the module's constant that stands for it there."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    own = next(node for node in classes if any(_registers(item, name) for item in node.decorator_list))
    value = _assigned(own.body, "card")
    if isinstance(value, ast.Name):
        value = _assigned(body, value.id)
    if not isinstance(value, ast.Call):
        raise RuntimeError(f"{file}: {own.name} has no line card = Card(...)")
    return Card(
        *map(ast.literal_eval, value.args),
        **{item.arg: ast.literal_eval(item.value) for item in value.keywords if item.arg},
    )


def _registers(decorator: ast.expr, name: str) -> bool:
    return isinstance(decorator, ast.Call) and ast.unparse(decorator).rpartition(".")[2] == f"register({name!r})"


def _assigned(body: list[ast.stmt], name: str) -> ast.expr | None:
    """What a name stands for: `name = value` or `name: Type = value`."""
    for line in body:
        if isinstance(line, ast.Assign) and name in map(ast.unparse, line.targets):
            return line.value
        if isinstance(line, ast.AnnAssign) and name == ast.unparse(line.target):
            return line.value
    return None
