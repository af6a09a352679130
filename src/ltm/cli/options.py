"""Command-line options out of config dataclasses: a name, a type, a default and a help sentence for each field."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from ltm.decode_json import field_types
from ltm.errors import LtmError


@dataclass(frozen=True)
class ConfigOption:
    """A field as an option; type: str, int, float or bool; optional: 'none' on the command line unsets it."""

    name: str
    type: type
    optional: bool
    default: Any
    help: str

    def parameter(self) -> inspect.Parameter:
        """The same as a keyword parameter of a typer command."""
        flag = "--" + self.name.replace("_", "-")
        if self.type is bool:
            info = typer.Option(f"{flag}/--no-{flag[2:]}", help=self.help)
            annotation: Any = Annotated[bool, info]
        else:
            metavar = {int: "INTEGER", float: "NUMBER", str: "TEXT"}[self.type] + ("|none" if self.optional else "")
            parser = _optional_parser(self.type) if self.optional else None
            info = typer.Option(flag, help=self.help, metavar=metavar, parser=parser)
            annotation = Annotated[Any if self.optional else self.type, info]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=self.default, annotation=annotation)


def config_options(config_class: type) -> list[ConfigOption]:
    """The fields of a config dataclass as options.

    The help sentence is the string literal below the field in the source of the class, or of the base it comes from.
    """
    hints, sentences = field_types(config_class), _sentences(config_class)
    options = []
    for field in fields(config_class):
        kind, optional = _plain_type(hints[field.name])
        default = None if field.default is MISSING else field.default
        options.append(ConfigOption(field.name, kind, optional, default, sentences.get(field.name, "")))
    return options


def run_with_options(
    function: Callable[..., Any],
    options: Sequence[ConfigOption],
    arguments: Sequence[str],
    prog_name: str,
    epilog: str,
) -> Any:
    """Parse arguments for a typer function whose `**values` collects further options, and call it.

    function: keyword parameters annotated for typer, and `**values`.
    """
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = [*own, *(option.parameter() for option in options)]

    def command(**values: Any) -> Any:
        return function(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = function.__doc__
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(epilog=epilog)(command)
    return app(args=list(arguments), prog_name=prog_name, standalone_mode=False)


def refuse(where: str, names: Iterable[str], context: typer.Context) -> None:
    """Refuse options, by the names of their parameters, that stand on the command line and would have no effect."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        off = {name: "no-" if context.params.get(name) is False else "" for name in given}
        options = ", ".join(f"--{off[name]}{name.replace('_', '-')}" for name in given)
        raise LtmError(f"{options}: no effect {where}; leave out what has none")


def _plain_type(hint: Any) -> tuple[type, bool]:
    """str, int, float or bool behind a hint, and whether None is allowed too."""
    members = [member for member in get_args(hint) if member is not NoneType]
    if get_origin(hint) is Literal:
        return str, False
    if members:
        return _plain_type(members[0])[0], NoneType in get_args(hint)
    return hint, False


def _optional_parser(kind: type) -> Callable[[str], Any]:
    def parse(text: Any) -> Any:
        if text is None or str(text).lower() == "none":
            return None
        try:
            return kind(text)
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} is no {'whole number' if kind is int else 'number'} and not 'none'."
            ) from None

    return parse


def _sentences(config_class: type) -> dict[str, str]:
    """Field name -> the string literal that stands below it, in the class itself or the nearest base."""
    found: dict[str, str] = {}
    for kind in reversed(config_class.__mro__):
        if is_dataclass(kind):
            found |= _own_sentences(kind)
    return found


def _own_sentences(config_class: type) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError):
        return {}
    found = {}
    for field, below in pairwise(body):
        if not (
            isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr)
        ):
            continue
        if isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            found[field.target.id] = " ".join(below.value.value.split())
    return found
