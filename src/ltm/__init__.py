"""ltm: long-term memory for language models.

>>> import ltm
>>> backbone = ltm.load_backbone("smollm2-135m")  # doctest: +SKIP
>>> model = ltm.attach("longmem", backbone, reduction_factor=6)  # doctest: +SKIP
>>> model.read(past_ids); model.generate(prompt_ids, max_new_tokens=20)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ltm.backbone import Backbone, load_backbone
    from ltm.bank import Bank, BankConfig
    from ltm.errors import BankCorruptError, BankError, BankMismatchError, ConfigError, LtmError
    from ltm.methods import METHODS, Method, load_method
    from ltm.methods import create_method as attach
    from ltm.text.session import Session

_PUBLIC = {
    "Backbone": "ltm.backbone",
    "Bank": "ltm.bank",
    "BankConfig": "ltm.bank",
    "BankCorruptError": "ltm.errors",
    "BankError": "ltm.errors",
    "BankMismatchError": "ltm.errors",
    "ConfigError": "ltm.errors",
    "LtmError": "ltm.errors",
    "METHODS": "ltm.methods",
    "Method": "ltm.methods",
    "Session": "ltm.text.session",
    "attach": "ltm.methods.registry",
    "load_backbone": "ltm.backbone",
    "load_method": "ltm.methods",
}
_OTHER_NAMES = {"attach": "create_method"}

__all__ = [
    "METHODS",
    "Backbone",
    "Bank",
    "BankConfig",
    "BankCorruptError",
    "BankError",
    "BankMismatchError",
    "ConfigError",
    "LtmError",
    "Method",
    "Session",
    "attach",
    "load_backbone",
    "load_method",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `import ltm` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ltm' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), _OTHER_NAMES.get(name, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
