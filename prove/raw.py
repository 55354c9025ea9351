"""A connection on which any bytes can be sent: what a client library would refuse to send too."""

from __future__ import annotations

import socket
from types import TracebackType

from prove.client import Answer

TIMEOUT_S = 60.0


class Closed(Exception):
    """The server closed the connection before an answer was whole."""


class Raw:
    """One connection. Answers are read by their Content-Length."""

    def __init__(self, port: int, timeout_s: float = TIMEOUT_S) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: type[BaseException] | TracebackType | BaseException | None) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send as it is."""
        self.socket.sendall(data)

    def answer(self, method: str = "GET") -> Answer:
        """The next whole answer, interim ones left out. Raises Closed, or TimeoutError."""
        while True:
            head, status, headers = self._head()
            length = (
                0 if method == "HEAD" or status in (204, 304) else int(headers.get("content-length", "0"))
            )
            self._fill(head + length)
            body, self._data = self._data[head : head + length], self._data[head + length :]
            if status >= 200:
                return Answer(status, headers, body)

    def ended(self) -> bool:
        """Whether the server closes the connection, what it sends before that read over. Raises TimeoutError."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        return True

    def _head(self) -> tuple[int, int, dict[str, str]]:
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            self._more()
        first, *lines = self._data[:end].decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        return end + 4, int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in fields}

    def _fill(self, size: int) -> None:
        while len(self._data) < size:
            self._more()

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise Closed(f"closed after {self._data[:200]!r}")
        self._data += data
