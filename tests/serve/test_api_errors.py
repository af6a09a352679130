"""Errors: bodies and headers by which the official clients act."""

from __future__ import annotations

import json

import pytest
from starlette.exceptions import HTTPException

from ltm.errors import BankCorruptError, ConfigError, LtmError
from ltm.serve.errors import ApiError, api_error, invalid, unsupported


@pytest.mark.parametrize(
    ("status", "kind", "retried"),
    [
        (400, "invalid_request_error", "false"),
        (401, "authentication_error", "false"),
        (403, "permission_error", "false"),
        (404, "not_found_error", "false"),
        (408, "timeout_error", "true"),
        (409, "conflict_error", "false"),
        (413, "invalid_request_error", "false"),
        (418, "invalid_request_error", "false"),
        (429, "rate_limit_error", "true"),
        (500, "api_error", "false"),
        (503, "overloaded_error", "true"),
    ],
)
def test_type_and_retry_by_status(status, kind, retried):
    response = ApiError(status, "no", "a_code", "a_field").response()
    assert response.status_code == status and response.headers["x-should-retry"] == retried
    assert ("retry-after" in response.headers) == (retried == "true")
    assert json.loads(response.body) == {"error": {"message": "no", "type": kind, "param": "a_field", "code": "a_code"}}


def test_what_a_user_can_mend_is_said_and_what_is_ours_is_not(caplog):
    for error in (LtmError("use 2"), ConfigError(["use 2"])):
        assert (api_error(error).status, api_error(error).message) == (400, "use 2")
    assert api_error(HTTPException(405, headers={"Allow": "GET"})).headers["Allow"] == "GET"
    assert not caplog.records
    ours = api_error(KeyError("/secret/path"))
    assert ours.status == 500 and "secret" not in json.dumps(ours.body) and "secret" in caplog.text
    assert api_error(BankCorruptError("/secret/bank is damaged")).status == 500
    given = ApiError(429, "slow", headers={"retry-after": "7"})
    assert api_error(given) is given and given.headers["retry-after"] == "7"


def test_shorthands():
    assert invalid("no", "n").body["error"]["param"] == "n"
    assert unsupported("tools are", "tools").message == "tools are not supported by this server; leave tools out"
