"""Method: one published way of remembering. What it *is* lies here; what it *has read* is a `Memory` that is handed in.

A family's base class says how its methods are built, which memory they have and which contract they answer; a method
fills in one to four small functions. Nothing asks which method it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary, WeakSet

from ltm.errors import BankMismatchError
from ltm.memory import LeftOut, Memory
from ltm.registry import Card

_SWITCHED_OFF: ContextVar[frozenset[int]] = ContextVar("switched_off", default=frozenset())
"""Methods by their id, while a block of `memory_off` is open: each thread has blocks of its own."""

_ADMITTED: WeakKeyDictionary[Memory, WeakSet[Method]] = WeakKeyDictionary()


class Method:
    """Base of every family. config: the method's frozen dataclass, kept as `method_config`.

    `memory` is the one used where a call hands none in; it is made at first use. Raises BankMismatchError where a
    memory does not belong to this method and its model.

    >>> memory = method.new_memory()  # doctest: +SKIP
    >>> method.read(past, memory=memory); method.generate(prompt, memory=memory)  # doctest: +SKIP
    """

    name: ClassVar[str]
    config_class: ClassVar[type[Any]]
    card: ClassVar[Card]
    memory_class: ClassVar[type[Memory]]
    speaks: ClassVar[Literal["tokens", "text"]] = "tokens"
    """What it reads and is asked in: a `Reader` in tokens, a `TextMemory` in text."""
    keeps_bank: ClassVar[bool] = False
    """Whether memories lie in a bank, which knows documents: `new_bank`, `memory_in`."""

    method_config: Any
    uses_memory: bool = True
    in_training: bool = False
    """Whether its weights change from step to step: a memory is not held to those that it was made with, then."""
    _memory: Memory | None = None

    # what a family supplies

    def new_memory(self, rows: int = 0) -> Any:
        """An empty memory; rows: how many, 0 where the first read decides."""
        raise NotImplementedError

    def check_memory(self, memory: Any) -> None:
        """Raise BankMismatchError where a memory of the right kind is another method's or model's."""

    def check_unchanged(self, memory: Any) -> None:
        """Raise BankMismatchError where the model is no longer what a memory was made with."""

    # the memory in use

    @property
    def memory(self) -> Any:
        """The memory used where a call hands none in."""
        if self._memory is None:
            self._memory = self.new_memory()
            self._known(self._memory).add(self)
        return self._memory

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self.admit(memory)
        self._memory = memory

    def admit(self, memory: Memory) -> None:
        """Raise BankMismatchError where a memory does not belong here."""
        if not isinstance(memory, self.memory_class):
            raise BankMismatchError(
                f"method {self.name} remembers in a {self.memory_class.__name__}, not in a {type(memory).__name__}; "
                "make one with its new_memory(), or open it with the method that made it"
            )
        if self.in_training:  # weights of a few steps ago made it
            return
        self.check_memory(memory)
        self._known(memory).add(self)

    def memory_for(self, given: Memory | LeftOut | None, *, look: bool = True) -> Any:
        """What a call uses of what it was given: None is no memory, left out the method's own.

        look: whether the model is still what the memory was made with; raises BankMismatchError where it is not.
        """
        if not isinstance(given, LeftOut):
            if given is not None and self not in self._known(given):
                self.admit(given)
            elif given is not None and look:
                self.check_unchanged(given)
            return given
        if self.is_off:
            return None
        memory = self.memory
        if not look:
            return memory
        try:
            self.check_unchanged(memory)
        except BankMismatchError:
            if not memory.is_empty:
                raise
            self._memory = None  # it holds nothing of the model as it was
        return self.memory

    @property
    def is_off(self) -> bool:
        """Whether a memory that is left out is none at all, in this thread."""
        return not self.uses_memory or id(self) in _SWITCHED_OFF.get()

    @contextmanager
    def memory_off(self) -> Iterator[None]:
        """A block in which a memory that is left out is none at all: the method as its own baseline. In this thread
        alone, or whoever runs in a copy of its context (`contextvars.copy_context().run`)."""
        before = _SWITCHED_OFF.get()
        _SWITCHED_OFF.set(before | {id(self)})
        try:
            yield
        finally:
            if id(self) not in before:
                _SWITCHED_OFF.set(_SWITCHED_OFF.get() - {id(self)})

    @staticmethod
    def _known(memory: Memory) -> WeakSet[Method]:
        """Methods to which a memory was found to belong."""
        return _ADMITTED.setdefault(memory, WeakSet())
