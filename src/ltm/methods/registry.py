"""Methods by name. `METHODS` is a mapping from names to classes that imports a method when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.configs import config_from_options
from ltm.errors import LtmError
from ltm.registry import Registry

if TYPE_CHECKING:
    from ltm.backbone import Backbone
    from ltm.methods.reader import Reader

METHODS: Registry[type[Any]] = Registry("method", "ltm.methods", "ltm.methods")
register = METHODS.register


def method_class(name: str) -> type[Any]:
    """The class of a method, of whatever family; LtmError with the known names for an unknown one."""
    return METHODS[name]


def create_method(name: str, backbone: Backbone, **options: Any) -> Reader:
    """Build a method on a backbone from its config's fields.

    name first, then the backbone that `load_backbone` gave. Raises LtmError for an unknown method, ConfigError for an
    unknown option or a value that cannot be.

    >>> create_method("window", load_backbone("tiny-llama"), local_window=64)  # doctest: +SKIP
    """
    if not isinstance(name, str):
        raise LtmError(f"the method's name comes first, not {type(name).__name__}: attach('longmem', backbone)")
    method = method_class(name)
    if method.speaks != "tokens":
        raise LtmError(f"method {name} remembers text, not tokens; open it with ltm.text.text_session.TextSession")
    if not hasattr(backbone, "view"):
        raise LtmError(f"{type(backbone).__name__} is not a backbone; pass what load_backbone() gives")
    return method(backbone, config_from_options(method.config_class, options, f"method {name}"))


def load_method(backbone: Backbone, path: str | Path, **overrides: Any) -> Reader:
    """Whatever method a directory holds, on its backbone; see `Reader.from_pretrained`.

    >>> load_method(load_backbone("smollm2-135m"), "sidenet/", memory_size=16384)  # doctest: +SKIP
    """
    from ltm.stored_weights import read_config  # with torch, which names and cards do without

    return method_class(read_config(path)["method"]).from_pretrained(backbone, path, **overrides)
