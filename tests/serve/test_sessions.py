"""The page's sessions over a socket: a cookie in place of a key, with the key's user and scopes and nothing more."""

from __future__ import annotations

import json
from datetime import timedelta
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from ltm.serve import sessions
from ltm.serve.keys import USUAL, KeyStore, utc_now
from ltm.serve.sessions import Sessions


class Browser:
    """Sends its cookie and its token wherever it has one, as a page does."""

    def __init__(self, url):
        self.url, self.cookie, self.token, self.header = url, None, None, None

    def call(self, method, path, body=None, **headers):
        """(status, JSON)"""
        data = None if body is None else json.dumps(body).encode()
        sent = {"content-type": "application/json", **headers}
        sent |= {"cookie": self.cookie} if self.cookie else {}
        sent |= {"x-csrf-token": self.token} if self.token else {}
        try:
            with urlopen(Request(f"{self.url}{path}", data, sent, method=method), timeout=30) as response:
                self.header = response.headers.get("set-cookie", self.header)
                return response.status, json.load(response)
        except HTTPError as error:
            return error.code, json.load(error)

    def log_in(self, **body):
        status, told = self.call("POST", "/session", body)
        assert status == 200, told
        self.cookie, self.token = self.header.partition(";")[0], told["token"]
        return told


@pytest.fixture
def running(serve, text_model):
    return serve(text_model)


@pytest.fixture
def me(running, keys):
    browser = Browser(running.url)
    browser.log_in(key=keys.create("mine", user="me")[1])
    return browser


WRITES = [
    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 2}),
    ("POST", "/v1/memory/items", {"text": "My cat is Tom."}),
    ("POST", "/v1/conversations", {}),
    ("DELETE", "/v1/memory", {"all": True, "confirm": "me"}),
]


def test_a_session_is_its_keys_user_with_its_scopes(running, keys):
    browser = Browser(running.url)
    text = keys.create("mine", user="me", scopes=["chat", "memory:read"])[1]
    assert browser.call("GET", "/session") == (200, {"object": "session", "user": None})
    assert browser.call("GET", "/v1/models")[0] == 401
    told = browser.log_in(key=f" {text}\n")
    assert (told["user"], told["scopes"], told["key"]["name"]) == ("me", ["chat", "memory:read"], "mine")
    assert told["model"] == "tiny-llama" and told["memory"] == "text" and "/v1/memory/items" in told["routes"]
    assert browser.call("GET", "/session")[1] == told
    assert browser.call("GET", "/v1/memory/items")[0] == 200
    status, refused = browser.call(*WRITES[1])
    assert status == 403 and refused["error"]["code"] == "insufficient_scope"
    status, refused = browser.call("GET", "/v1/memory/items", **{"X-LTM-User": "bob"})
    assert status == 403 and refused["error"]["code"] == "memory_forbidden"
    assert text not in json.dumps(told)


def test_the_cookie_is_kept_from_scripts_and_other_sites(running, keys):
    browser, text = Browser(running.url), keys.create("mine", user="me")[1]
    for given, path in [("/", "/"), ("/memory/of.mine/", "/memory/of.mine/"), ("/a; Domain=evil/", "/"), ("x", "/")]:
        browser.log_in(key=text, path=given)
        parts = [part.strip() for part in browser.header.split(";")]
        assert {"HttpOnly", "SameSite=strict", f"Path={path}", "Max-Age=604800"} <= set(parts) and len(parts) == 5
        assert parts[0].startswith("ltm_session_") and len(parts[0].partition("=")[2]) == 43
    kept = [bytes(one) for (one,) in keys.database.run("SELECT hash FROM sessions")]
    assert len(kept) == 4 and parts[0].partition("=")[2].encode() not in b"".join(kept)


@pytest.mark.parametrize("method, path, body", WRITES)
def test_a_write_needs_the_token(me, method, path, body):
    token = me.token
    for wrong in (None, "0" * 64, token.upper(), f"{token}0"):
        me.token = wrong
        status, refused = me.call(method, path, body)
        assert status == 403 and refused["error"]["code"] == "csrf"
    me.token = token
    assert me.call(method, path, body)[0] == 200


def test_a_key_that_is_sent_counts_alone(me):
    assert me.call("GET", "/v1/models", authorization="Bearer ltm_none")[0] == 401


def test_a_session_ends(me, running, keys, monkeypatch):
    other = Browser(running.url)
    other.log_in(key=keys.create("second", user="me")[1])
    token, me.token = me.token, None
    assert me.call("DELETE", "/session")[0] == 403  # another site logs nobody out
    me.token = token
    assert me.call("DELETE", "/session")[0] == 200 and "Max-Age=0" in me.header
    assert me.call("GET", "/v1/models")[0] == 401 and me.call("DELETE", "/session")[0] == 200
    assert other.call("GET", "/v1/models")[0] == 200
    keys.revoke("second")
    assert other.call("GET", "/v1/models")[0] == 401 and other.call("GET", "/session")[1]["user"] is None
    late = Browser(running.url)
    late.log_in(key=keys.create("third", user="me")[1])
    (left,) = keys.database.run("SELECT key FROM sessions")  # what is over is deleted when one begins
    later = utc_now() + timedelta(days=7, seconds=1)
    monkeypatch.setattr(sessions, "utc_now", lambda: later)
    assert late.call("GET", "/v1/models")[0] == 401


def test_a_session_outlives_the_server(serve, text_model, keys, me, running):
    running.stop()
    me.url = serve(text_model).url
    assert me.call("GET", "/v1/memory/items")[0] == 200


def test_who_cannot_log_in(running, keys):
    browser = Browser(running.url)
    assert browser.call("POST", "/session", {"key": "ltm_none"})[0] == 401
    assert browser.call("POST", "/session", {"key": keys.create("gate")[1]})[0] == 403
    for body in ({}, [], {"key": 3}, {"token": ["x"]}):
        assert browser.call("POST", "/session", body)[0] == 400
    text = keys.create("mine", user="me")[1]
    assert browser.call("POST", "/session", {"key": text, "x": "y" * 5000})[0] == 413
    for kind in ("text/plain", "application/x-www-form-urlencoded"):  # what a form of another site can send
        status, refused = browser.call("POST", "/session", {"key": text}, **{"content-type": kind})
        assert status == 400 and "application/json" in refused["error"]["message"]


def test_a_link_logs_in_once_and_not_for_long(running, keys, monkeypatch):
    known = running.server.sessions
    assert known.link_token() is None  # no key has the scope admin
    keys.create("gate", scopes=["admin"])
    assert known.link_token() is None  # a gateway is nobody
    keys.create("admin", user="ann", scopes=[*USUAL, "admin"])
    token, browser = known.link_token(), Browser(running.url)
    assert browser.log_in(token=token)["user"] == "ann" and browser.call("GET", "/v1/memory/items")[0] == 200
    assert browser.call("POST", "/session", {"token": token})[0] == 401
    monkeypatch.setattr(sessions, "LINK_SECONDS", -1.0)
    token = known.link_token()
    assert browser.call("POST", "/session", {"token": token})[0] == 401


def test_two_servers_on_one_machine_have_two_cookies(tmp_path):
    stores = [KeyStore(tmp_path / name) for name in "ab"]
    assert Sessions(stores[0]).cookie != Sessions(stores[1]).cookie == Sessions(stores[1]).cookie
    for store in stores:
        store.close()
