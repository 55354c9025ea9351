"""httpx2 as both clients use it: how it is set up, what it is given, and its errors as ours.

httpx2 is imported when a client is made, so that a worker, which has a leaner connection, never loads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jobpipe.client.address import Address, authorization
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.exchange import Answer, Request
from jobpipe.tracing import traceparent

if TYPE_CHECKING:
    import httpx2

KEEP_IDLE_S: Final = 4.0
"""Less than the 5 seconds after which servers close idle connections: a request must not meet the closing."""


def options(address: Address, key: str | None, timeout: float) -> dict[str, Any]:
    """The arguments for httpx2.Client and httpx2.AsyncClient alike, but for the transport."""
    import httpx2

    return {
        "base_url": address.url,
        "headers": {"user-agent": "jobpipe", **authorization(key)},
        "timeout": timeout,
        # Loading certificates takes 50 to 80 ms, most of a command's time on a server without TLS.
        "verify": address.tls,
        # A proxy of the environment cannot reach this machine's loopback.
        "trust_env": not address.local,
        "limits": httpx2.Limits(keepalive_expiry=KEEP_IDLE_S),
    }


def arguments(request: Request, timeout: float) -> dict[str, Any]:
    """The arguments for `client.request`."""
    import httpx2

    return {
        "method": request.method,
        "url": request.path,
        "content": request.body,
        "headers": _headers(request),
        "timeout": httpx2.Timeout(timeout, read=timeout + request.wait),
    }


def _headers(request: Request) -> dict[str, str]:
    headers = {} if request.body is None else {"content-type": "application/json"}
    if request.path == "/enqueue" and (trace := traceparent()) is not None:
        headers["traceparent"] = trace
    return headers


def answer_of(response: httpx2.Response) -> Answer:
    """The response as a value."""
    return Answer(response.status_code, response.content, response.headers)


def failure_of(error: httpx2.RequestError, address: Address) -> ConnectionFailed:
    """The error as ours; what failed before a connection stood was certainly not sent."""
    import httpx2

    unsent = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
    reason = str(error) or type(error).__name__
    return ConnectionFailed(f"{address}: {reason}", maybe_sent=not isinstance(error, unsent))
