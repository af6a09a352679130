"""What a bank and a directory it was saved to have in common, so that the next save writes what is new alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ltm.bank.disk.journal import BankJournal
from ltm.bank.disk.manifest import Manifest
from ltm.bank.disk.manifest_entries import FileEntry, ShardEntry
from ltm.bank.document_counts import tick

FANOUT = 16
"""Small shards that become one: a token is written again at most once for each class of sizes, and a bank of 10,000
short documents has tens of shards instead of 10,000."""
CLASSES = (2**18, 2**22)
"""Bytes from which a shard is in the next class; one of the last class is not joined with others."""


@dataclass
class Saved:
    """revision: of the manifest there; moment: changes after it are not saved yet (see `Changes`); texts: of the
    documents listed there; shards: of each row, in order; next_slots: of each row, the first slot not saved; journal:
    None in a bank of version 2; stamps: when names in the bank's folders changed last, None: not known. Where they have
    not changed since, no save was killed, and leftovers need not be looked for among thousands of files."""

    revision: str
    moment: int
    texts: dict[int, FileEntry | None]
    shards: list[list[ShardEntry]]
    next_slots: list[int]
    journal: BankJournal | None
    stamps: dict[str, int] | None = None

    def begin(self, rows: int) -> None:
        """The bank had no rows when it was saved, and has these now: nothing of them is there."""
        self.shards, self.next_slots = [[] for _ in range(rows)], [0] * rows


def opened(manifest: Manifest) -> Saved:
    """Of a bank that was just loaded."""
    shards: list[list[ShardEntry]] = [[] for _ in manifest.rows]
    for shard in sorted(manifest.shards, key=lambda shard: shard.first):
        shards[shard.row].append(shard)
    texts = {document.info.id: document.text for document in manifest.documents}
    return Saved(manifest.revision, tick(), texts, shards, [row.next for row in manifest.rows], manifest.position)


class SlotRun(NamedTuple):
    """Slots first to last of a row in one shard: one that is there, or (entry None) one to be written."""

    first: int
    last: int
    num_bytes: int
    entry: ShardEntry | None = None


def joined(runs: list[SlotRun]) -> list[SlotRun]:
    """The runs of a row in order, where the last ones are small and many with these as one."""
    runs = list(runs)
    while runs:
        level = _class(runs[-1].num_bytes)
        count = next((n for n, run in enumerate(reversed(runs)) if _class(run.num_bytes) > level), len(runs))
        if level == len(CLASSES) or count < FANOUT:
            break
        last = runs[-count:]
        runs[-count:] = [SlotRun(last[0].first, last[-1].last, sum(run.num_bytes for run in last))]
    return runs


def _class(num_bytes: int) -> int:
    return sum(num_bytes >= least for least in CLASSES)
