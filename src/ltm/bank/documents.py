"""The documents of a bank: names, texts, and whether they were read to their end."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ltm.bank.document_counts import Changes, tick
from ltm.errors import BankError

Ranges = tuple[tuple[int, int], ...]
"""Ranges of characters, in order, none touching another."""


@dataclass
class BankDocument:
    """A document as the bank knows it; `row` is the memory row it was added to; ranges: the characters of its text that
    are to be remembered, None for all."""

    id: int
    name: str
    row: int
    text: str | None = None
    complete: bool = False
    ranges: Ranges | None = None


class DocumentsMark:
    """Which documents there are at a moment: what was deleted since, and ids that were given since are next_id or
    more."""

    def __init__(self, next_id: int):
        self.next_id, self.deleted = next_id, list[BankDocument]()


class Documents:
    """Documents by id, and by name. An id is never given twice in the life of a bank.

    changes: documents that were added or finished, by when; deleted_at: when one was last deleted.
    """

    def __init__(self) -> None:
        self.by_id: dict[int, BankDocument] = {}
        self.by_name: dict[str, list[int]] = {}
        self.next_id = 0
        self.changes = Changes()
        self.deleted_at = 0
        self.marks: list[DocumentsMark] = []

    def __iter__(self) -> Iterator[BankDocument]:
        return iter(list(self.by_id.values()))

    def __len__(self) -> int:
        return len(self.by_id)

    def __contains__(self, document: object) -> bool:
        return document in self.by_id

    def __getitem__(self, document: int) -> BankDocument:
        """Raises BankError for an id that is not there."""
        if document not in self.by_id:
            known = ", ".join(map(str, list(self.by_id)[:10])) or "none; call add_document first"
            raise BankError(f"no document {document!r} in this bank; its ids are {known}")
        return self.by_id[document]

    def named(self, name: str) -> list[BankDocument]:
        """The documents of a name, in the order they were added."""
        return [self.by_id[number] for number in self.by_name.get(name, [])]

    def add(self, name: str, row: int, text: str | None, ranges: Iterable[tuple[int, int]] | None = None) -> int:
        """A new document; returns its id. Raises BankError for ranges that are not of its text."""
        document = BankDocument(self.next_id, name, row, text, ranges=_checked(name, text, ranges))
        self.next_id += 1
        self.put(document)
        self.changes.note([document.id])
        return document.id

    def put(self, document: BankDocument) -> None:
        """Take in a document that has its id."""
        self.by_id[document.id] = document
        self.by_name.setdefault(document.name, []).append(document.id)

    def finish(self, document: int) -> None:
        """Note that a document was read to its end."""
        self[document].complete = True
        self.changes.note([document])

    def delete(self, documents: Iterable[int]) -> None:
        """Delete documents, their texts too."""
        for number in documents:
            document = self.by_id.pop(number)
            same = self.by_name[document.name]
            same.remove(number)
            if not same:
                del self.by_name[document.name]
            self.changes.moments.pop(number, None)
            for mark in self.marks:
                mark.deleted.append(document)
            self.deleted_at = tick()

    def mark(self) -> DocumentsMark:
        """How they are now, for `restore`; to be taken off `marks` when it is not needed any more."""
        self.marks.append(DocumentsMark(self.next_id))
        return self.marks[-1]

    def since(self, mark: DocumentsMark) -> list[int]:
        """The ids of documents that were added since."""
        return [number for number in range(mark.next_id, self.next_id) if number in self.by_id]

    def restore(self, mark: DocumentsMark) -> None:
        """The documents that there were when they were marked."""
        self.delete(self.since(mark))
        deleted = [document for document in mark.deleted if document.id < mark.next_id]
        for document in deleted:
            self.put(document)
            self.by_name[document.name].sort()
        self.changes.note(document.id for document in deleted)
        if deleted:
            self.by_id = dict(sorted(self.by_id.items()))
        self.next_id = mark.next_id

    def select(self, rows: Sequence[int], held: Sequence[Container[int]]) -> Documents:
        """The documents of these memory rows, which become rows 0, 1, ...: those that were added to one of them, and
        those of which it holds something (`held`, ids for each). Texts are shared."""
        other = Documents()
        other.next_id = self.next_id
        for document in self.by_id.values():
            holders = [i for i, row in enumerate(rows) if document.row == row or document.id in held[i]]
            if holders:
                other.put(replace(document, row=holders[0]))
        return other


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted ranges with those that overlap or touch as one.

    >>> joined([(0, 3), (2, 5), (7, 8)])
    ((0, 5), (7, 8))
    """
    found: list[tuple[int, int]] = []
    for start, end in ranges:
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def are_ranges(ranges: Sequence[Sequence[int]], length: int) -> bool:
    """Whether these are ranges of a text of so many characters, in order."""
    places = [place for both in ranges for place in both]
    pairs = all(len(both) == 2 and both[0] < both[1] for both in ranges)
    return pairs and places == sorted(places) and (not places or places[0] >= 0 and places[-1] <= length)


def _checked(name: str, text: str | None, ranges: Iterable[tuple[int, int]] | None) -> Ranges | None:
    """Ranges as a document keeps them; None where they are all of its text."""
    if ranges is None:
        return None
    length, ordered = len(text or ""), sorted((start, end) for start, end in ranges)
    wrong = [both for both in ordered if not are_ranges([both], length)]
    if wrong:
        raise BankError(f"{wrong[0]} is no range of {name}, which has {length:,} characters; use 0 <= start < end")
    found = joined(ordered)
    return None if found == ((0, length),) else found
