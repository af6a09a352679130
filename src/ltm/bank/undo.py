"""Undo: a bank as it was before a read that failed half-way.

Nothing is copied beforehand. Of a row's buffers only `Ring.append` changes what stands in them, and only where chunks
were evicted: while a mark is set it notes what it overwrites, at most what the row held. Everything else makes buffers
anew, and then the mark still has the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ltm.bank.contents import BankContents
from ltm.bank.document_counts import tick
from ltm.bank.rows import MemoryRow


class _RowMark:
    """How a row is now."""

    def __init__(self, row: MemoryRow):
        self.row = row
        rings = [row.ring] if row.events is None else [row.ring, row.events.ring]
        self.rings = [(ring, ring.mark()) for ring in rings]
        self.mapped, self.num_tokens, self.usage = row.mapped, row.num_tokens, row.usage
        self.next_slot = row.next_slot

    def release(self) -> None:
        for ring, mark in self.rings:
            ring.marks.remove(mark)

    def restore(self) -> None:
        row = self.row
        for ring, mark in self.rings:
            ring.restore(mark)
        row.mapped, row.num_tokens, row.usage = self.mapped, self.num_tokens, self.usage
        row.next_slot = self.next_slot
        row.recount()
        row.renew_index()


@contextmanager
def undone_on_failure(bank: BankContents) -> Iterator[None]:
    """A block that leaves the bank as it was if it ends by an exception: rows, slots, documents.

    Where the bank was saved in the block, slots are known on the disk and what was evicted is deleted there, too: then
    only the documents that were added go.
    """
    marks = [_RowMark(row) for row in bank.rows]
    registry = bank.document_registry
    before, saved = registry.mark(), bank.saved_revisions
    try:
        yield
    except BaseException:
        if bank.saved_revisions != saved:
            for document in registry.since(before):
                bank.delete_document(document)
            raise
        registry.restore(before)
        bank.version = tick()
        del bank.rows[len(marks) :]  # those that were begun in the block
        for number, mark in enumerate(marks):
            mark.restore()
            if bank.rows[number] is not mark.row:
                mark.row.sharers += 1
                bank.rows[number] = mark.row
        raise
    finally:
        registry.marks.remove(before)
        for mark in marks:
            mark.release()
