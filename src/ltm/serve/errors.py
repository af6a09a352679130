"""What a client is told when something is in the way: OpenAI's error bodies, in one place.

The official clients map an error by its status, and retry 408, 409, 429 and 500 and above by themselves unless
`x-should-retry` says otherwise: so every error says it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ltm.errors import BankError, LtmError

logger = logging.getLogger("ltm.serve")

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
RETRIED = (408, 429, 503)
"""What may well succeed if it is asked for again as it is."""
RETRY_SECONDS = 2
"""When to come again, where nothing better is known."""


class ApiError(Exception):
    """An error as a client gets it.

    status: of HTTP; code: a word for programs; param: the field that it is about; headers: further ones.

    >>> ApiError(404, "there is no model zork", code="model_not_found", param="model").body["error"]["type"]
    'not_found_error'
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = {"x-should-retry": str(status in RETRIED).lower(), **(headers or {})}
        if status in RETRIED:
            self.headers.setdefault("retry-after", str(RETRY_SECONDS))

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of it; also what an event of a stream holds that has begun."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be."""
    return ApiError(400, message, code, param)


def unsupported(what: str, param: str, code: str = "unsupported_parameter") -> ApiError:
    """A request for what this server does not do: said, never left out in silence."""
    return ApiError(400, f"{what} not supported by this server; leave {param} out", code, param)


def api_error(error: BaseException) -> ApiError:
    """Any exception as a client gets it: what a user can mend in its own words, what we did wrong without any."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        known = {404: "there is no such route", 405: "this route has other methods"}
        return ApiError(error.status_code, known.get(error.status_code, error.detail), headers=error.headers)
    if isinstance(error, LtmError) and not isinstance(error, BankError):  # a bank's troubles are no client's
        return invalid(str(error))
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "something went wrong in the server; its log says more", "internal_error")
