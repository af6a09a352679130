"""The texts of a bank with the ranges that are remembered of them: what a bank can be built from again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltm.bank.contents import BankContents
from ltm.bank.documents import joined
from ltm.console import json_text
from ltm.data.documents import check_text, read_text
from ltm.errors import BankError


@dataclass(frozen=True)
class KeptText:
    """A document. ranges: the characters that are remembered, in order; all of the text where all was read."""

    name: str
    text: str
    ranges: list[tuple[int, int]]

    def to_json(self) -> str:
        """One line, which `ltm read` takes as well (the whole text then)."""
        return json_text({"id": self.name, "text": self.text, "ranges": self.ranges})


def kept_texts(bank: BankContents) -> Iterator[KeptText]:
    """The documents of a bank. Raises BankError where one was added without its text.

    A document that was cut off is given as it was to be read, so that it is read to its end; of one that was forgotten
    in part (its oldest chunks were evicted) the ranges leave that out.
    """
    missing = [info.name for info in bank.documents if bank.document_text(info.id) is None]
    if missing:
        raise BankError(f"the texts of {', '.join(missing[:5])} are not in this bank; nothing can be built from it")
    for info in bank.documents:
        text = bank.document_text(info.id) or ""
        wanted = bank.document_registry[info.id].ranges or ((0, len(text)),)
        ranges = _common(_held(bank, info.id), wanted) if info.complete else list(wanted)
        yield KeptText(info.name, text, ranges)


def read_kept_texts(file: str | Path) -> Iterator[KeptText]:
    """What `to_json` wrote, a line each. Raises BankError with the line that is not."""
    for number, line in enumerate(read_text(Path(file)).split("\n"), 1):
        if line.strip():
            try:
                yield _parsed(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise BankError(f"{file}:{number} is no line of `ltm bank export` ({error}); export again") from error


def is_export(file: Path) -> bool:
    """Whether a file begins as an export does."""
    with open(file, "rb") as lines:
        try:
            _parsed(json.loads(lines.readline()))
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
    return True


def _parsed(values: dict[str, Any]) -> KeptText:
    name, text = values["id"], values["text"]
    ranges = [(start, end) for start, end in values["ranges"]]
    if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError("id and text must be texts")
    check_text(name, "its id")
    check_text(text, "its text")
    if any(type(place) is not int for both in ranges for place in both):
        raise ValueError("its ranges must be whole numbers")
    if any(not 0 <= start < end <= len(text) for start, end in ranges) or ranges != sorted(ranges):
        raise ValueError("its ranges are not those of its text")
    return KeptText(name, text, ranges)


def _held(bank: BankContents, document: int) -> list[tuple[int, int]]:
    """The ranges of characters that chunks of a document cover: neighbours, and what lies between them unless a chunk
    is missing there, as one."""
    ranges: list[tuple[int, int]] = []
    before = None
    for row in bank.unique_rows():
        of_it = row.ring.ordered("documents") == document
        spans, slots = row.ring.ordered("spans")[of_it], row.slots()[of_it]
        for slot, (start, end) in zip(slots.tolist(), spans.tolist(), strict=True):
            if end <= start:
                continue
            if ranges and before == slot - 1:
                ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
            else:
                ranges.append((start, end))
            before = slot
    return list(joined(sorted(ranges)))


def _common(ranges: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is in both, of ranges in order."""
    both = [(max(a, c), min(b, d)) for a, b in ranges for c, d in others]
    return [(start, end) for start, end in both if start < end]
