"""Running a loaded model, or using a memory, oneself: one thread at a time, and as it is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Lock, RLock, get_ident
from typing import Any
from weakref import WeakKeyDictionary

import torch

_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_MAKING = Lock()


def lock_of(shared: Any) -> Any:
    """The re-entrant lock of a loaded model or a memory, the same one for all that work on it.

    Plugins are attached to the model itself, so two threads must not run it with plugins at once. The lock lies beside
    its owner: one that is copied or pickled has a lock of its own. Who takes both takes the model's first.
    """
    plain = getattr(shared, "_orig_mod", shared)  # what torch.compile wraps
    with _MAKING:
        return _LOCKS.setdefault(plain, RLock())


def uncompiled() -> AbstractContextManager[Any]:
    """What torch.compile made runs as it was written inside the block; nothing to do where nothing was compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


class Turn:
    """The thread that made this; what is attached works in it alone, so that others may run the plain model.

    >>> Turn().is_mine
    True
    """

    def __init__(self) -> None:
        self._thread = get_ident()

    @property
    def is_mine(self) -> bool:
        return get_ident() == self._thread

    def only(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """A module's hook that does nothing in other threads. Those may meet it half registered: that it takes keyword
        arguments, too, torch notes after it is there."""
        return lambda *given: hook(*given) if self.is_mine else None
