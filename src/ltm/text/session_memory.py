"""The memory of a session: its own or its method's, the directory it lies in, and the documents that were read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from ltm.bank import Bank, DocumentInfo
from ltm.bank.documents import Documents
from ltm.configs import DEFAULT_METHOD
from ltm.errors import LtmError
from ltm.memory import LeftOut, Memory
from ltm.methods import Reader


class SessionMemory:
    """What a session reads into and answers with; every part of a session looks here.

    given: the memory that was handed in; left out: the method's own. path: the directory of its bank, None for none.
    A memory that lies in no bank notes no documents: they are noted here.
    """

    def __init__(self, method: Reader, given: Memory | LeftOut, path: Path | None):
        self.method, self.given, self.path = method, given, path
        self._documents, self._num_tokens = Documents(), dict[int, int]()  # of a memory that notes none

    @property
    def held(self) -> Any:
        """The memory itself."""
        return self.method.memory if isinstance(self.given, LeftOut) else self.given

    @property
    def bank(self) -> Bank | None:
        """The bank in which the memory lies by now."""
        return self.held.bank

    def alone(self) -> AbstractContextManager[None]:
        """A block in which no other thread uses model or memory."""
        return self.method.alone(self.given)

    def begun_bank(self) -> Bank:
        """The bank, made at first use. Raises LtmError where the method keeps none."""
        if not self.method.keeps_bank:
            raise LtmError(no_bank(self.method.name))
        bank = self._lay_in_bank() if self.bank is None else self.bank
        bank.begin(1)
        return bank

    def _lay_in_bank(self) -> Bank:
        """A bank for a memory that can lie in one and holds nothing yet."""
        if not self.held.is_empty:
            raise LtmError("this memory has read without noting documents; reset it, or give the session another one")
        memory: Any = self.method.memory_in(self.method.new_bank(1))
        if isinstance(self.given, LeftOut):
            self.method.memory = memory
        else:
            self.given = memory
        return memory.bank

    def num_tokens(self) -> int:
        """Tokens that were read and are held."""
        memory = self.begun_bank() if self.method.keeps_bank else self.held
        return memory.num_tokens(0) if memory.num_rows else 0

    def reset(self) -> None:
        """Forget all of it; a directory keeps what was saved there."""
        self.method.reset(memory=self.given)
        self._documents.delete([document.id for document in self._documents])

    # documents

    @property
    def registry(self) -> Documents:
        """Names and texts of what was read."""
        return self._documents if self.bank is None else self.bank.document_registry

    @property
    def documents(self) -> list[DocumentInfo]:
        """What was read, in order, with what is held of it."""
        if self.bank is not None:
            return self.bank.documents
        return [self.info(document.id) for document in self._documents]

    def info(self, document: int) -> DocumentInfo:
        """One of them."""
        if self.bank is not None:
            return self.bank.document_info(document)
        known = self._documents[document]
        length = len(known.text or "")
        return DocumentInfo(
            known.id, known.name, known.row, self._num_tokens.get(document, 0), 0, length, known.complete
        )

    def finish(self, document: int, num_tokens: int) -> DocumentInfo:
        """Note that a document of so many tokens was read to its end."""
        self.registry.finish(document)
        self._num_tokens[document] = num_tokens
        return self.info(document)

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """A block that leaves memory and documents as they were if it ends by an exception."""
        before = self._documents.mark()
        try:
            with self.held.undone_on_failure():
                yield
        except BaseException:
            self._documents.restore(before)
            raise
        finally:
            self._documents.marks.remove(before)


def no_bank(method: str) -> str:
    """What is said of a method that keeps none, where one is needed."""
    return f"method {method} keeps no bank; use one that does, such as {DEFAULT_METHOD}"
