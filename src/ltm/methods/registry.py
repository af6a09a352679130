"""Methods by name. A registry holds classes, never instances; every module of this package registers its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

from ltm.decode_json import field_types, typed
from ltm.errors import ConfigError, LtmError, short_repr, unknown_name
from ltm.methods.checks import range_problems

if TYPE_CHECKING:
    from ltm.backbone import Backbone
    from ltm.methods.reader import Reader

METHODS: dict[str, type[Reader]] = {}
"""Name -> class, filled when `ltm.methods` is imported."""

AnyMethod = TypeVar("AnyMethod", bound="type[Reader]")


def register(name: str) -> Callable[[AnyMethod], AnyMethod]:
    """Class decorator: make a method known by name to the command line, the contract tests and the docs."""

    def note(method: AnyMethod) -> AnyMethod:
        if name in METHODS:
            raise RuntimeError(f"two methods are called {name}")
        method.name = name
        METHODS[name] = method
        return method

    return note


def scan() -> None:
    """Import every module of this package, so that each registers what it holds."""
    import ltm.methods as package

    for module in iter_modules(package.__path__):
        import_module(f"ltm.methods.{module.name}")


def method_class(name: str) -> type[Reader]:
    """The class of a method; LtmError with the known names for an unknown one."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def has_memory_size(name: str) -> bool:
    """Whether a method lets old tokens go beyond a `memory_size`; others keep all, or hold what fits their window."""
    return "memory_size" in (field.name for field in fields(method_class(name).config_class))


def create_method(name: str, backbone: Backbone, **options: Any) -> Reader:
    """Build a method on a backbone from its config's fields.

    name first, then the backbone that `load_backbone` gave. Raises LtmError for an unknown method, ConfigError for an
    unknown option or a value that cannot be.

    >>> create_method("window", load_backbone("tiny-llama"), local_window=64)  # doctest: +SKIP
    """
    if not isinstance(name, str):
        raise LtmError(f"the method's name comes first, not {type(name).__name__}: attach('longmem', backbone)")
    method = method_class(name)
    if not hasattr(backbone, "view"):
        raise LtmError(f"{type(backbone).__name__} is not a backbone; pass what load_backbone() gives")
    return method(backbone, config_from_options(method.config_class, options, name))


def config_from_options(config_class: type, options: dict[str, Any], name: str) -> Any:
    """A config from keyword options; unknown ones are refused with the known ones listed, values of another type all
    together."""
    known = [field.name for field in fields(config_class)]
    unknown = [str(option)[:60] for option in options if option not in known]
    if unknown:
        raise ConfigError(f"method {name} has no option {', '.join(unknown[:9])}; it has: {', '.join(known) or 'none'}")
    hints, values, problems = field_types(config_class), {}, list[str]()
    for option, value in options.items():
        try:
            value = value.item() if hasattr(value, "item") else value
            problems += (found := range_problems({} if option == "seed" else {option: value}))
            values[option] = value if found else typed(_json_kind(hints[option]), value, option)
        except (ValueError, RuntimeError) as error:
            problems.append(f"{option}={short_repr(value)}: {error}")
    if problems:
        raise ConfigError(problems)
    return config_class(**values)


def _json_kind(hint: Any) -> Any:
    """The type of a field's JSON values; which texts of a Literal there are the config tells itself."""
    if get_origin(hint) is Literal:
        return str
    members = get_args(hint)
    return Union[tuple(map(_json_kind, members))] if members else hint  # noqa: UP007 (of a tuple)
