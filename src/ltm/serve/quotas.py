"""How much a key and a user may ask for: requests and tokens a minute, answers at once, what is remembered.

A bucket holds a minute's worth and fills as time goes. Tokens are taken out once an answer tells how many there were:
what
turned out large is paid for by waiting.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from ltm.serve.errors import ApiError
from ltm.serve.settings import ServeSettings

MINUTE = 60.0
MOST_BUCKETS = 10_000
"""Beyond so many, the full ones are dropped: an empty place and a full bucket are the same."""


@dataclass
class Bucket:
    """most: what it holds; level: what is in it, below 0 where more was taken than there was; since: when that was."""

    most: int
    level: float
    since: float

    def fill(self, now: float) -> None:
        self.level = min(self.most, self.level + (now - self.since) * self.most / MINUTE)
        self.since = now

    def wait(self, level: float) -> float:
        """Seconds until it is filled so far."""
        return max(0.0, (level - self.level) * MINUTE / self.most)


@dataclass
class Allowance:
    """What one request is counted on. names: key and user, as they are counted; headers: what it is told."""

    quotas: Quotas
    names: tuple[str, ...]
    headers: dict[str, str] = field(default_factory=dict)

    def pay(self, tokens: int) -> None:
        """Count tokens that were used."""
        self.quotas.pay(self.names, tokens)


class Quotas:
    """The limits of a server's settings, and how far each key and user has used them up. None is no limit.

    >>> quotas = Quotas(ServeSettings(user_requests_per_minute=1)); _ = quotas.admit("7", "ann")
    >>> quotas.admit("7", "ann")
    Traceback (most recent call last):
    ltm.serve.errors.ApiError: requests a minute of this user: 1, all of them used; come again in 60 seconds
    """

    def __init__(self, settings: ServeSettings):
        self.limits = {
            ("key", "requests"): settings.key_requests_per_minute,
            ("user", "requests"): settings.user_requests_per_minute,
            ("key", "tokens"): settings.key_tokens_per_minute,
            ("user", "tokens"): settings.user_tokens_per_minute,
        }
        self.most_answers = {"key": settings.key_answers_at_once, "user": settings.user_answers_at_once}
        self.most_remembered, self.most_bytes = settings.user_remembered_tokens, settings.user_disk
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._answering: Counter[str] = Counter()
        self._remembered: dict[str, int] = {}
        self._lock = Lock()

    # requests and tokens

    def admit(self, key: str, user: str | None) -> Allowance:
        """Count a request. Raises ApiError 429 where a key or a user has none left, or no tokens."""
        names = (f"key {key}", *([] if user is None else [f"user {user}"]))
        with self._lock:
            found = [(kind, name, bucket) for kind, name, bucket in self._all_of(names)]
            for kind, name, bucket in found:
                least = 1.0 if kind == "requests" else 0.0
                if bucket.level < least or (kind == "tokens" and bucket.level <= 0):
                    raise _too_many(kind, name, bucket, max(least, 1.0), _headers(found))
            for kind, _, bucket in found:
                bucket.level -= kind == "requests"
            if len(self._buckets) > MOST_BUCKETS:
                now = time.monotonic()
                self._buckets = {
                    name: one for name, one in self._buckets.items() if one.wait(one.most) > now - one.since
                }
            return Allowance(self, names, _headers(found))

    def pay(self, names: Iterable[str], tokens: int) -> None:
        """Take tokens out of the buckets of a key and a user."""
        with self._lock:
            for kind, _, bucket in self._all_of(names):
                bucket.level -= tokens if kind == "tokens" else 0

    def _all_of(self, names: Iterable[str]) -> Iterable[tuple[str, str, Bucket]]:
        now = time.monotonic()
        for name in names:
            for (whose, kind), most in self.limits.items():
                if most is not None and name.startswith(f"{whose} "):
                    bucket = self._buckets.setdefault((kind, name), Bucket(most, most, now))
                    bucket.fill(now)
                    yield kind, name, bucket

    # answers at once

    def begin(self, names: Iterable[str]) -> None:
        """Count an answer that is being given. Raises ApiError 429 where a key or a user has as many already."""
        with self._lock:
            for name in names:
                most, now = self.most_answers[name.partition(" ")[0]], self._answering[name]
                if most is not None and now >= most:
                    told = f"answers at once of this {name.partition(' ')[0]}: {now}, the most is {most}"
                    raise ApiError(429, f"{told}; come again when one has ended", "too_many_at_once")
            self._answering.update(names)

    def end(self, names: Iterable[str]) -> None:
        with self._lock:
            self._answering.subtract(names)
            self._answering = +self._answering

    # what is remembered

    def note_remembered(self, directory: str, tokens: int | None) -> None:
        """How many tokens a user's memory holds, once that is known."""
        if tokens is not None and self.most_remembered is not None:
            self._remembered[directory] = tokens

    def check_room(self, directory: Path) -> None:
        """Raise ApiError 413 where a user's memory is full; directory: the user's own."""
        tokens = self._remembered.get(directory.name, 0)
        if self.most_remembered is not None and tokens >= self.most_remembered:
            raise _full("remembered tokens", tokens, self.most_remembered)
        if self.most_bytes is None or not directory.exists():
            return
        held = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        if held >= self.most_bytes:
            raise _full("bytes on disk", held, self.most_bytes)


def _full(what: str, now: int, most: int) -> ApiError:
    why = f"{what} of this user: {now:,}, the most is {most:,}"
    return ApiError(413, f"{why}; delete some, or send memory.write false", "memory_full")


def _too_many(kind: str, name: str, bucket: Bucket, level: float, headers: dict[str, str]) -> ApiError:
    seconds = max(1, math.ceil(bucket.wait(level)))
    told = f"{kind} a minute of this {name.partition(' ')[0]}: {bucket.most:,}, all of them used"
    headers = {**headers, "retry-after": str(seconds)}
    return ApiError(429, f"{told}; come again in {seconds} seconds", f"{kind}_per_minute", None, headers)


def _headers(found: Iterable[tuple[str, str, Bucket]]) -> dict[str, str]:
    """What is left, of the bucket of each kind that holds the least."""
    headers: dict[str, str] = {}
    for kind in ("requests", "tokens"):
        own = [bucket for one, _, bucket in found if one == kind]
        if own:
            bucket = min(own, key=lambda one: one.level)
            headers[f"x-ratelimit-limit-{kind}"] = str(bucket.most)
            headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(bucket.level)))
            headers[f"x-ratelimit-reset-{kind}"] = f"{math.ceil(bucket.wait(bucket.most))}s"
    return headers
