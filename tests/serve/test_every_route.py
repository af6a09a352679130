"""No route is open that is not meant to be: each is asked without a key, and by a session without its token."""

from __future__ import annotations

import json
import re
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from ltm.serve.keys import USUAL
from ltm.serve.page_routes import PAGE_ROUTES

OPEN = {"/health", "/ready", "/version", "/openapi.json", "/docs", "/session", *(route.path for route in PAGE_ROUTES)}
"""What anybody may ask; none of it tells of anybody."""


@pytest.fixture
def running(serve, text_model):
    return serve(text_model)


@pytest.fixture
def routes(running):
    """[(method, path, as it is asked)]"""
    found = []
    for route in running.server.app.routes:
        path = re.sub(r"\{[^}]*:int\}", "1", route.path)
        for method in sorted((route.methods or {"POST"}) - {"HEAD"}):
            found.append((method, route.path, re.sub(r"\{[^}]*\}", "x_1", path)))
    return found


def ask(url, method, **headers):
    """(status, body)"""
    body = None if method == "GET" else b"{}"
    try:
        with urlopen(Request(url, body, {"content-type": "application/json", **headers}, method=method)) as response:
            return response.status, response.read()
    except HTTPError as error:
        return error.code, error.read()


def test_every_route_needs_a_key_that_counts(running, routes, keys):
    keys.create("mine", user="me")
    asked = [(method, path, url) for method, path, url in routes if path not in OPEN]
    assert len(asked) >= 30
    for method, path, url in asked:
        for headers in ({}, {"authorization": "Bearer ltm_none"}, {"cookie": "ltm_session=x"}, {"x-ltm-user": "me"}):
            status, body = ask(f"{running.url}{url}", method, **headers)
            assert status == 401 and json.loads(body)["error"]["code"] == "invalid_api_key", (method, path, headers)


def test_every_write_of_a_session_needs_its_token(running, routes, keys):
    session = running.server.sessions.begin(keys.create("mine", user="me", scopes=[*USUAL, "admin"])[0])
    cookie = f"{running.server.sessions.cookie}={session.text}"
    writes = [one for one in routes if one[0] != "GET" and one[1] not in OPEN]
    assert len(writes) >= 15
    for method, path, url in writes:
        status, body = ask(f"{running.url}{url}", method, cookie=cookie)
        assert status == 403 and json.loads(body)["error"]["code"] == "csrf", (method, path)
    for method, path, url in routes:
        if method == "GET" and path.startswith("/v1/"):
            assert ask(f"{running.url}{url}", method, cookie=cookie)[0] in (200, 400, 404), path


def test_admin_and_metrics_are_for_admins(running, routes, keys):
    key = keys.create("mine", user="me")[1]
    asked = [one for one in routes if one[1].startswith("/v1/admin") or one[1] == "/metrics"]
    assert len(asked) >= 5
    for method, path, url in asked:
        status, body = ask(f"{running.url}{url}", method, authorization=f"Bearer {key}")
        assert status == 403 and json.loads(body)["error"]["code"] == "insufficient_scope", (method, path)
