"""A connection to a server, as small as a proof needs it: one request at a time, any status is an answer."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

TIMEOUT_S = 60.0


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Client:
    """One connection, opened again when it was closed. Raises OSError or HTTPException when no answer comes."""

    def __init__(self, port: int, timeout_s: float = TIMEOUT_S) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Send a request; `body` is sent as it is when it is bytes, else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self._connection.request(method, path, data)
            response = self._connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        except BaseException:
            self._connection.close()
            raise

    def get(self, path: str) -> Any:
        """What a GET gives, decoded, whatever its status."""
        return self.ask("GET", path).json()

    def post(self, path: str, body: Any) -> Any:
        """What a POST gives, decoded, whatever its status."""
        return self.ask("POST", path, body).json()

    def tasks(self) -> Iterator[dict[str, Any]]:
        """Every task that the server has, newest first."""
        path: str | None = "/tasks?limit=1000"
        while path is not None:
            answer = self.ask("GET", path)
            yield from answer.json()
            path = _next(answer.headers.get("link", ""))

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@contextlib.contextmanager
def connected(port: int) -> Iterator[Client]:
    """A connection for a while."""
    with contextlib.closing(Client(port)) as client:
        yield client


def _next(link: str) -> str | None:
    """The path of the next page (RFC 8288), None at the last one."""
    if 'rel="next"' not in link:
        return None
    return link[link.index("<") + 1 : link.index(">")]
