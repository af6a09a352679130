"""The documents of a bank: names, texts, and whether they were read to their end."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ltm.errors import BankError


@dataclass
class Document:
    """A document as the bank knows it; `row` is the memory row it was added to."""

    id: int
    name: str
    row: int
    text: str | None = None
    complete: bool = False


class Documents:
    """Documents by id. An id is never given twice in the life of a bank."""

    def __init__(self) -> None:
        self.by_id: dict[int, Document] = {}
        self.next_id = 0

    def __iter__(self) -> Iterator[Document]:
        return iter(list(self.by_id.values()))

    def __len__(self) -> int:
        return len(self.by_id)

    def __contains__(self, document: object) -> bool:
        return document in self.by_id

    def __getitem__(self, document: int) -> Document:
        """Raises BankError for an id that is not there."""
        if document not in self.by_id:
            known = ", ".join(map(str, list(self.by_id)[:10])) or "none; call add_document first"
            raise BankError(f"no document {document!r} in this bank; its ids are {known}")
        return self.by_id[document]

    def add(self, name: str, row: int, text: str | None) -> int:
        """A new document; returns its id."""
        document = Document(self.next_id, name, row, text)
        self.by_id[document.id] = document
        self.next_id += 1
        return document.id

    def remove(self, documents: Iterable[int]) -> None:
        """Forget documents, their texts too."""
        for document in documents:
            del self.by_id[document]

    def select(self, rows: Sequence[int], held: Sequence[Container[int]]) -> Documents:
        """The documents of these memory rows, which become rows 0, 1, ...: those that were added to one of them, and
        those of which it holds something (`held`, ids for each). Texts are shared."""
        other = Documents()
        other.next_id = self.next_id
        for document in self.by_id.values():
            places = [i for i, row in enumerate(rows) if document.row == row or document.id in held[i]]
            if places:
                other.by_id[document.id] = replace(document, row=places[0])
        return other
