"""Errors as RFC 9457 problem details: which HTTP status a code has, and how the answer looks.

`core.errors` holds what any caller can act on; the errors that only HTTP knows are here.
"""

from __future__ import annotations

from msgspec import UNSET

from jobpipe.core.errors import Draining, Invalid, JobpipeError, NotFound, Unauthorized
from jobpipe.wire import Problem, encode_view

Headers = list[tuple[bytes, bytes]]

TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}

STATUS = {
    "invalid_json": 400,
    "invalid": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "task_exists": 409,
    "not_unique": 409,
    "not_waiting": 409,
    "too_many_schedules": 409,
    "idempotency_mismatch": 422,
    "not_finished": 409,
    "already_finished": 409,
    "not_retryable": 409,
    "lease_lost": 409,
    "too_large": 413,
    "wrong_host": 421,
    "rate_limited": 429,
    "headers_too_large": 431,
    "internal": 500,
    "queue_full": 503,
    "too_many_queues": 503,
    "too_many_keys": 503,
    "too_many_readers": 503,
    "draining": 503,
    "upgrading": 503,
    "degraded": 503,
    "storage_down": 503,
    "storage_full": 507,
}

SAFE: Headers = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
"""On every answer: browsers guess no types, and nobody keeps what may change in the next millisecond."""

CLOSE = (b"connection", b"close")


class NoSuchPath(NotFound):
    """Nothing is served under this path."""

    sentence = "not found"


class MethodNotAllowed(JobpipeError):
    """The path exists, the method does not fit; `allow` lists those that do."""

    code = "method_not_allowed"
    sentence = "method not allowed"

    def __init__(self, allow: str) -> None:
        super().__init__(f"allowed: {allow}")
        self.allow = allow


class MissingId(Invalid):
    """`GET /task` without an id."""

    sentence = "missing id parameter"


class WrongHost(JobpipeError):
    """The Host header names a site that this server does not serve."""

    code = "wrong_host"
    sentence = "wrong host"


class HeadersTooLarge(JobpipeError):
    """The request's head is over its limit in bytes."""

    code = "headers_too_large"
    sentence = "headers too large"


class BadHttp(Invalid):
    """What came is no HTTP request."""

    sentence = "malformed HTTP request"


class TooSlow(Invalid):
    """The request did not arrive within its deadline."""

    sentence = "request timed out"


def problem_of(error: JobpipeError) -> Problem:
    """The error as problem details."""
    status = status_of(error)
    return Problem(
        title=TITLES[status],
        status=status,
        code=error.code,
        error=error.sentence,
        detail=UNSET if error.detail is None else error.detail,
        field=UNSET if error.field is None else error.field,
    )


def encode_error(error: JobpipeError) -> bytes:
    """The error as problem JSON."""
    return encode_view(problem_of(error))


def status_of(error: JobpipeError) -> int:
    """The HTTP status of an error."""
    return 408 if isinstance(error, TooSlow) else STATUS.get(error.code, 500)


def problem_answer(error: JobpipeError, *, close: bool = False) -> tuple[int, Headers, bytes]:
    """Status, headers and body of the answer to a whole request. With `close` (or draining) the connection ends."""
    body = encode_error(error)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        *SAFE,
    ]
    headers += _own_headers(error)
    if close or isinstance(error, Draining):
        headers.append(CLOSE)
    return status_of(error), headers, body


def _own_headers(error: JobpipeError) -> Headers:
    """The headers that belong to the error itself."""
    if error.retry_after:
        return [(b"retry-after", b"%d" % error.retry_after)]
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", error.allow.encode())]
    if isinstance(error, Unauthorized):
        return [(b"www-authenticate", b"Bearer")]  # RFC 6750, 3
    return []
