"""A bounded queue that is fair to users: they take turns, whoever asked how much."""

from __future__ import annotations

from collections import OrderedDict, deque
from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")


class QueueFull(Exception):
    """There is room for nothing more; or the queue is closed."""


class FairQueue(Generic[Item]):
    """Items of several users; each user's in order, and of the users one item each in turn.

    size: most items that wait, but for those put in beyond it. Usable from several threads.

    >>> queue = FairQueue(10)
    >>> for turn, item in (("ann", 1), ("ann", 2), ("ann", 3), ("bob", 4)): queue.put(turn, item)
    >>> [queue.take() for _ in range(4)]
    [1, 4, 2, 3]
    """

    def __init__(self, size: int):
        self.size, self.is_closed = size, False
        self._waiting: OrderedDict[str, deque[Item]] = OrderedDict()  # whose turn is next first
        self._changed = Condition()

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def put(self, turn: str, item: Item, *, beyond: bool = False) -> None:
        """Add an item at the end of a user's own; beyond: whatever the size. Raises QueueFull."""
        with self._changed:
            if self.is_closed or (self._count() >= self.size and not beyond):
                raise QueueFull
            self._waiting.setdefault(turn, deque()).append(item)
            self._changed.notify()

    def take(self) -> Item | None:
        """The next item, waited for; None once the queue is closed."""
        with self._changed:
            while not self._waiting:
                if self.is_closed:
                    return None
                self._changed.wait()
            turn, items = next(iter(self._waiting.items()))
            item = items.popleft()
            del self._waiting[turn]
            if items:
                self._waiting[turn] = items  # behind all others
            return item

    def close(self) -> list[Item]:
        """Take nothing in any more; what was waiting."""
        with self._changed:
            self.is_closed = True
            left = [item for items in self._waiting.values() for item in items]
            self._waiting.clear()
            self._changed.notify_all()
            return left

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))
