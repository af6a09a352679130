"""A bound on how long a case may take, for all fuzzers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class TookTooLong(BaseException):
    """Of no kind that what is tried would catch."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TookTooLong inside the block when so many seconds are over."""

    def stop(*_: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
