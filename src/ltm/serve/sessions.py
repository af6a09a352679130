"""Sessions of the page: a key is given once, and a cookie stands for it from then on.

The cookie is HttpOnly and SameSite=Strict, bound to the page's path, and holds 32 random bytes that are kept as a hash;
scripts never see it, and other sites cannot send it. A write needs a token besides, which the page is told when it
begins and no other site can read. A session ends when its time is over, its key has ended, or its key is revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta

from starlette.requests import Request

from ltm.serve.errors import ApiError
from ltm.serve.keys import ApiKey, KeyStore, stamp, utc_now

SESSION_SPAN = timedelta(days=7)
"""How long a session lasts."""
LINK_SECONDS = 900.0
"""How long a link that logs in can be used, once."""
TOKEN_HEADER = "x-csrf-token"
READS = ("GET", "HEAD")
"""Methods of requests that change nothing."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (hash BLOB PRIMARY KEY, key INTEGER NOT NULL, expires TEXT NOT NULL) WITHOUT ROWID
"""


@dataclass(frozen=True)
class BrowserSession:
    """text: what the cookie holds; key: what it stands for; expires: ISO 8601, UTC."""

    text: str
    key: ApiKey
    expires: str

    @property
    def token(self) -> str:
        """What a write must bring besides the cookie; whoever does not know the cookie cannot make it."""
        return hmac.new(self.text.encode(), b"token of writes", hashlib.sha256).hexdigest()


class Sessions:
    """The sessions of a server, in the file of its keys; links that log in are known to this process alone.

    >>> session = sessions.begin(key)  # doctest: +SKIP
    >>> sessions.find(session.text).key == key  # doctest: +SKIP
    True
    """

    def __init__(self, keys: KeyStore):
        self.keys, self.database = keys, keys.database
        self.database.run(_SCHEMA)
        self.cookie = f"ltm_session_{hashlib.sha256(keys.secret).hexdigest()[:8]}"
        """Its name: two servers on one machine share the browser's jar, as ports are not told apart there."""
        self._links: dict[bytes, tuple[int, float]] = {}

    def begin(self, key: ApiKey) -> BrowserSession:
        """A new session; those that are over are deleted."""
        now = utc_now()
        session = BrowserSession(secrets.token_urlsafe(32), key, stamp(now + SESSION_SPAN))
        with self.database.transaction():
            self.database.run(
                "DELETE FROM sessions WHERE expires <= ? OR key NOT IN (SELECT id FROM keys)", (stamp(now),)
            )
            self.database.run("INSERT INTO sessions VALUES (?, ?, ?)", (_hash(session.text), key.id, session.expires))
        return session

    def find(self, text: str) -> BrowserSession | None:
        """The session that a cookie is, if it is one that counts."""
        rows = self.database.run("SELECT key, expires FROM sessions WHERE hash = ?", (_hash(text),))
        if not rows or rows[0][1] <= stamp(utc_now()):
            return None
        key = self.keys.with_id(rows[0][0])
        return None if key is None else BrowserSession(text, key, rows[0][1])

    def end(self, text: str) -> None:
        """No request comes in with it any more."""
        self.database.run("DELETE FROM sessions WHERE hash = ?", (_hash(text),))

    # links

    def link_token(self) -> str | None:
        """What a link holds that logs in once, as the oldest key of one user that has the scope admin; None where no
        key has."""
        now = stamp(utc_now())
        keys = (key for key in self.keys.all() if key.user is not None and key.may("admin"))
        key = next((key for key in keys if key.expires is None or key.expires > now), None)
        if key is None:
            return None
        token = secrets.token_urlsafe(24)
        self._links[_hash(token)] = key.id, time.monotonic() + LINK_SECONDS
        return token

    def redeem(self, token: str) -> ApiKey | None:
        """The key that a link logs in as, the first time and before its time is over."""
        number, end = self._links.pop(_hash(token), (0, 0.0))
        return self.keys.with_id(number) if time.monotonic() < end else None


def session_of(request: Request) -> BrowserSession | None:
    """The session that a request's cookie stands for."""
    sessions: Sessions | None = getattr(getattr(request.app.state, "server", None), "sessions", None)
    text = None if sessions is None else request.cookies.get(sessions.cookie)
    return None if sessions is None or not text else sessions.find(text)


def session_key(request: Request) -> ApiKey | None:
    """The key that a request's session stands for. Raises ApiError 403 for a write without the session's token."""
    session = session_of(request)
    if session is None:
        return None
    if request.method not in READS:
        check_token(request, session)
    return session.key


def check_token(request: Request, session: BrowserSession) -> None:
    """Raise ApiError 403 where a request lacks its session's token."""
    given = request.headers.get(TOKEN_HEADER, "").encode("latin-1")
    if not hmac.compare_digest(given, session.token.encode()):
        raise ApiError(403, f"a session's write needs its token in {TOKEN_HEADER}; load the page again", "csrf")


def _hash(text: str) -> bytes:
    """SHA-256, as of keys: what is 24 or 32 random bytes needs no slow hash."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
