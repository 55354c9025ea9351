"""A client's calls over the standard library: for the command line, whose answer must not wait for httpx2's import.

One connection, kept alive, one request at a time. It carries out the same flows as `Client`, and reads event streams.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar, cast

from jobpipe.client.address import Address, authorization
from jobpipe.client.errors import ConnectionFailed, error_of
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Flow, Pause, resume

T = TypeVar("T")

TIMEOUT_S: Final = 10.0
KEEP_IDLE_S: Final = 4.0
"""Less than the 5 seconds after which servers close idle connections: a request must not meet the closing."""

MAX_LINE: Final = 1 << 22


class PlainClient:
    """Calls to one server, for one thread. Proxies of the environment are not used."""

    def __init__(self, address: Address, key: str | None = None, *, timeout: float = TIMEOUT_S) -> None:
        self._address = address
        self._timeout = timeout
        self._headers = {"user-agent": "jobpipe", **authorization(key)}
        self._http: http.client.HTTPConnection | None = None
        self._used = 0.0

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def run(self, flow: Flow[T]) -> T:
        """Carry out a flow. Raises what the flow ends by: a JobpipeError, TimeoutError."""
        outcome: Answer | ConnectionFailed | None = None
        try:
            while True:
                outcome = self._carry_out(resume(flow, outcome))
        except StopIteration as end:
            return cast("T", end.value)

    def lines(self, path: str, headers: Mapping[str, str], silence: float) -> Iterator[bytes]:
        """The lines of an endless answer, without their ends. Raises ConnectionFailed, also when it ends.

        `silence` is how many seconds may pass without a byte.
        """
        request = Request("GET", path)
        try:
            with contextlib.closing(self._connect(silence)) as connection:
                connection.request("GET", self._address.prefix + path, headers={**self._headers, **headers})
                response = connection.getresponse()
                if response.status != 200:
                    raise error_of(response.status, response.read())
                while line := response.readline(MAX_LINE):
                    yield line.rstrip(b"\r\n")
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(error, request) from error
        raise ConnectionFailed(f"{self._address}: the stream ended")

    def _carry_out(self, step: Request | Pause) -> Answer | ConnectionFailed | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._send(step)
        except ConnectionFailed as error:
            return error

    def _send(self, request: Request) -> Answer:
        connection = self._kept() or self._connect(self._timeout)
        self._http = connection
        if connection.sock is not None:
            connection.sock.settimeout(self._timeout + request.wait)
        headers = self._headers | ({} if request.body is None else {"content-type": "application/json"})
        try:
            connection.request(request.method, self._address.prefix + request.path, request.body, headers)
            response = connection.getresponse()
            answer = Answer(
                response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
            )
        except BaseException as error:
            # Cut also at Ctrl+C: a late answer must not meet the next request.
            self.close()
            if isinstance(error, OSError | http.client.HTTPException):
                raise self._failed(error, request) from error
            raise
        self._used = time.monotonic()
        return answer

    def _kept(self) -> http.client.HTTPConnection | None:
        if self._http is not None and (
            self._http.sock is None or time.monotonic() - self._used > KEEP_IDLE_S
        ):
            self.close()
        return self._http

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        """A connection that stands. Raises ConnectionFailed, and then nothing was sent."""
        address = self._address
        connection: http.client.HTTPConnection
        if address.socket is not None:
            connection = _UnixConnection(address.socket, timeout)
        elif address.tls:
            connection = http.client.HTTPSConnection(address.host, address.port, timeout=timeout)
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise ConnectionFailed(f"{address}: {_reason(error)}") from error
        return connection

    def _failed(self, error: Exception, request: Request) -> ConnectionFailed:
        if isinstance(error, TimeoutError):
            reason = f"no answer in {self._timeout + request.wait:g} s"
        else:
            reason = _reason(error)
        return ConnectionFailed(f"{self._address}: {reason}", maybe_sent=True)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _reason(error: Exception) -> str:
    """What went wrong, in the system's words, without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
