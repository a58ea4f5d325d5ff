"""Errors as clients see them: OpenAI's shape, the right status, and nothing of our inside.

Knows the error tree and HTTP status codes; knows no route and no request.
"""

from __future__ import annotations

import math
import random
from typing import Any

from starlette.responses import JSONResponse

from pagewire.errors import PagewireError, RequestError, RequestFailed, Unavailable

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


class Unauthorised(RequestError):
    code = "invalid_api_key"
    status = 401


class NoRoute(RequestError):
    code = "not_found"
    status = 404


class NotServed(NoRoute):
    """A route of OpenAI's, and the message says why it is not here."""

    code = "not_served"


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"
    status = 405


class HeadTooLong(RequestError):
    code = "request_header_fields_too_large"
    status = 431


class ClientGone(Exception):
    """Nobody is left to answer."""


def status_of(error: PagewireError) -> int:
    if isinstance(error, RequestError | Unavailable | RequestFailed):
        return error.status
    return 500


def body_of(error: PagewireError) -> dict[str, Any]:
    status = status_of(error)
    known = isinstance(error, RequestError | Unavailable | RequestFailed)
    return {
        "error": {
            "message": str(error) if known else "the server could not answer",
            "type": _TYPES.get(status, "server_error"),
            "param": getattr(error, "param", None),
            "code": error.code if known else "internal_error",
        }
    }


def response_of(error: PagewireError, headers: dict[str, str] | None = None) -> JSONResponse:
    status, headers = status_of(error), dict(headers or {})
    if status in (429, 503):
        headers["retry-after"] = str(_retry_after(getattr(error, "retry_after", 1.0)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body_of(error), status_code=status, headers=headers)


def _retry_after(seconds: float) -> int:
    """Whole seconds, spread out so that the refused do not all come back at once."""
    return math.ceil(seconds * random.uniform(1.0, 3.0))
