"""Keys: made, shown once, kept as a hash; and the secret by which users' directories are named."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ltm.errors import LtmError
from ltm.notes.database import Database
from ltm.serve.identity import Principal

CONTROL = "control.sqlite3"
"""The file in the data directory."""
SCOPES = ("chat", "memory:read", "memory:write", "admin", "gateway")
"""What a key may: ask the model; have memories read for it, and written; keys, users, metrics; speak for many."""
USUAL = ("chat", "memory:read", "memory:write")
FIRST_USER = "me"
"""Whose the first key of a server is."""
SHOWN_CHARS = 8
"""Of a key that are kept as they are, so that a person can tell keys apart."""
LEAST_CHARS = 24
"""Of a key that is given and not made here."""
USE_SECONDS = 60
"""A key's last use is noted no oftener."""


class ControlDatabase(Database):
    """Keys and names of users; never what anybody said."""

    KIND, APPLICATION_ID, VERSION = "store of keys", 0x6C746D6B, 1  # "ltmk"
    SCHEMA = """
    CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE keys (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, shown TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,
        tenant TEXT NOT NULL, user TEXT, scopes TEXT NOT NULL, created TEXT NOT NULL, expires TEXT, used TEXT);
    CREATE INDEX keys_as_shown ON keys (shown);
    CREATE TABLE users (
        directory TEXT PRIMARY KEY, tenant TEXT NOT NULL, user TEXT NOT NULL, namespace TEXT NOT NULL,
        created TEXT NOT NULL);
    """


@dataclass(frozen=True)
class ApiKey:
    """A key without the key: id, name, how it begins, whom it is bound to (None: a gateway), times in ISO 8601 (UTC)
    of its making, its end and its last use (None: never), and scopes."""

    id: int
    name: str
    shown: str
    tenant: str
    user: str | None
    created: str
    expires: str | None
    used: str | None
    scopes: tuple[str, ...]

    @property
    def principal(self) -> Principal:
        return Principal(self.user, self.tenant)

    def may(self, scope: str) -> bool:
        return scope in self.scopes


@dataclass(frozen=True)
class KnownUser:
    """Who has a memory. id: the name of its directory; created: ISO 8601, UTC."""

    id: str
    tenant: str
    user: str
    namespace: str
    created: str


class KeyStore:
    """The keys in a data directory, which is made where it is missing; several processes may have it open.

    >>> key, text = KeyStore(directory).create("laptop", user="me")  # doctest: +SKIP
    >>> KeyStore(directory).find(text) == key  # doctest: +SKIP
    True
    """

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = directory / CONTROL
        self.database = ControlDatabase.open_or_make(file)
        file.chmod(0o600)

    def close(self) -> None:
        self.database.close()

    @property
    def secret(self) -> bytes:
        """32 bytes, made at the first call, by which directories of users are named."""
        with self.database.transaction():
            self.database.run("INSERT OR IGNORE INTO facts VALUES ('secret', ?)", (secrets.token_bytes(32),))
            return bytes(self.database.value("SELECT value FROM facts WHERE name = 'secret'"))

    # keys

    def create(
        self,
        name: str,
        user: str | None = None,
        scopes: Sequence[str] = USUAL,
        expires: timedelta | None = None,
        tenant: str = "default",
        text: str | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its text, which is kept nowhere. user: whom it is bound to; None needs the scope gateway, and
        has it. text: one that is given; None: one is made. Raises LtmError for what cannot be."""
        scopes = tuple(dict.fromkeys([*scopes, *(["gateway"] if user is None else [])]))
        _check(user, scopes, expires)
        text = f"ltm_{secrets.token_urlsafe(32)}" if text is None else text
        if len(text) < LEAST_CHARS or not text.isascii() or not text.isprintable() or " " in text:
            raise LtmError(f"this is no key; give {LEAST_CHARS} or more printable ASCII characters without blanks")
        now = utc_now()
        values = (
            *(name, text[:SHOWN_CHARS], _hash(text), tenant, user, " ".join(scopes), stamp(now)),
            None if expires is None else stamp(now + expires),
        )
        with self.database.transaction():
            if self.database.value("SELECT 1 FROM keys WHERE hash = ?", (_hash(text),)):
                raise LtmError("this key is there already; list keys to see it")
            self.database.run(
                "INSERT INTO keys (name, shown, hash, tenant, user, scopes, created, expires) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            (key,) = self._keys("WHERE id = last_insert_rowid()")
        return key, text

    def find(self, text: str) -> ApiKey | None:
        """The key that a text is, if it is one and has not ended; its use is noted."""
        given, found = _hash(text), None
        for number, known in self.database.run("SELECT id, hash FROM keys WHERE shown = ?", (text[:SHOWN_CHARS],)):
            if hmac.compare_digest(given, bytes(known)):
                found = int(number)
        return None if found is None else self.with_id(found)

    def with_id(self, number: int) -> ApiKey | None:
        """The key of an id, if there is one and it has not ended; its use is noted."""
        keys, now = self._keys("WHERE id = ?", (number,)), utc_now()
        if not keys or (keys[0].expires is not None and keys[0].expires <= stamp(now)):
            return None
        used = keys[0].used
        if used is None or used < stamp(now - timedelta(seconds=USE_SECONDS)):
            self.database.run("UPDATE keys SET used = ? WHERE id = ?", (stamp(now), number))
        return keys[0]

    def all(self) -> list[ApiKey]:
        """All of them, oldest first; those that have ended, too."""
        return self._keys("ORDER BY id")

    def revoke(self, key: str) -> ApiKey:
        """Delete a key by id, name, or how it begins. LtmError where none or several are called so."""
        found = [one for one in self.all() if key in (str(one.id), one.name, one.shown)]
        if len(found) != 1:
            known = ", ".join(f"{one.id} ({one.name}, {one.shown}...)" for one in found or self.all()) or "none"
            raise LtmError(f"{len(found) or 'no'} keys are called {key}; give the id of one: {known}")
        self.revoke_id(found[0].id)
        return found[0]

    def revoke_id(self, number: int) -> None:
        """Delete the key of an id, if there is one."""
        self.database.run("DELETE FROM keys WHERE id = ?", (number,))

    def first(self, text: str | None = None) -> str | None:
        """The text of the first key, made now, with every scope but gateway; None where there are keys. text: the one
        that it is to be; where there are keys, it is added if it is not one of them."""
        if text is not None and self.find(text) is not None:
            return None
        if text is None and self.all():
            return None
        return self.create("first", FIRST_USER, [*USUAL, "admin"], text=text)[1]

    def _keys(self, condition: str, values: Sequence[Any] = ()) -> list[ApiKey]:
        columns = "id, name, shown, tenant, user, created, expires, used, scopes"
        rows = self.database.run(f"SELECT {columns} FROM keys {condition}", values)
        return [ApiKey(*(*row[:-1], tuple(row[-1].split()))) for row in rows]

    # users

    def note_user(self, directory: str, tenant: str, user: str, namespace: str) -> None:
        """Whose a directory is: nowhere else do names stand."""
        values = (directory, tenant, user, namespace, stamp(utc_now()))
        if self.database.value("SELECT 1 FROM users WHERE directory = ?", (directory,)) is None:
            self.database.run("INSERT OR IGNORE INTO users VALUES (?, ?, ?, ?, ?)", values)

    def users(self, after: str | None = None, limit: int = -1, newest_first: bool = False) -> list[KnownUser]:
        """Who has a memory, in the order they came; after: the id of the last one of the page before; limit: of a page,
        -1: all."""
        compare, order = ("<", "DESC") if newest_first else (">", "ASC")
        start = f"rowid {compare} (SELECT rowid FROM users WHERE directory = ?)" if after is not None else "? IS NULL"
        select = "SELECT directory, tenant, user, namespace, created FROM users"
        rows = self.database.run(f"{select} WHERE {start} ORDER BY rowid {order} LIMIT ?", (after, limit))
        return [KnownUser(*row) for row in rows]


def _check(user: str | None, scopes: Sequence[str], expires: timedelta | None) -> None:
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise LtmError(f"there is no scope {', '.join(unknown)}; there are: {', '.join(SCOPES)}")
    if user is not None and "gateway" in scopes:
        raise LtmError("a gateway key speaks for many users and is bound to none; leave the user or the scope out")
    if user is not None and not user.strip():
        raise LtmError("the user's name is empty; give one")
    if expires is not None and expires <= timedelta(0):
        raise LtmError("the key would have ended already; give a time to come")


def _hash(text: str) -> bytes:
    """SHA-256: 32 random bytes need no slow hash, and cannot be guessed from a fast one."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


def stamp(time: datetime) -> str:
    """ISO 8601 in UTC, to the second, of one width: sorts as the times do.

    >>> stamp(datetime(2026, 11, 27, 9, 5, tzinfo=timezone.utc))
    '2026-11-27T09:05:00Z'
    """
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
