"""Copies of turns in a user's kept responses and conversations: what is forgotten is forgotten there, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ltm.serve.response_request import messages_of
from ltm.serve.response_store import Kept, ResponseStore
from ltm.serve.turn_log import LoggedTurn, chain, said


@dataclass(frozen=True)
class NumCopies:
    """How much is kept, or was deleted: items (messages and answers), responses, conversations."""

    items: int = 0
    responses: int = 0
    conversations: int = 0


class KeptCopies:
    """The copies in a user's directory; where there is no store, there are none.

    >>> KeptCopies(directory).delete(turns)  # doctest: +SKIP
    1
    """

    def __init__(self, directory: Path):
        self.directory = directory

    def delete(self, turns: Sequence[LoggedTurn]) -> int:
        """Delete every item that is one of some turns, by its hash, from its response and its conversation; how many
        items those were."""
        hashes, places = {turn.hash for turn in turns}, {turn.parent for turn in turns if turn.parent}
        with self._store() as store:
            found = [number for number, kept in store.said_after(places) if own_hash(kept) in hashes]
            return store.delete_items(found)

    def delete_all(self) -> NumCopies:
        """Delete every item, response and conversation."""
        with self._store() as store:
            return NumCopies(*store.delete_all())

    def num_holding(self, words: Sequence[str]) -> int:
        """Items that hold any of some words, whoever said it."""
        with self._store() as store:
            return sum(store.num_holding(one) for one in words)

    @contextmanager
    def _store(self) -> Iterator[ResponseStore]:
        with closing(ResponseStore(self.directory, make=False)) as store:
            yield store


def own_hash(kept: Kept) -> str | None:
    """The hash by which the log knows an item; None for one that nobody said."""
    turns = said(messages_of([kept.item])) if kept.after is not None else []
    return next((own for _, own in chain(turns, after=kept.after)), None)
