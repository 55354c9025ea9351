"""The smallest HTTP client that does: requests are bytes made beforehand, of an answer only status and length are read.

A full client would cost more per request than the server does, and so measure itself.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

TIMEOUT_S = 30.0
"""How long any single answer may take before the measurement counts as broken."""
LONGEST_PAUSE_S = 0.5
POLL_S = 0.005
_WELL = b"HTTP/1.1 20"


class BenchError(Exception):
    """A measurement that cannot be made; the message is for people."""


def request(method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
    """A whole HTTP/1.1 request of a connection that stays open."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection:
    """One connection with at most one request under way. Unless `refusals`, an answer that is not 2xx raises."""

    refusals = False

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0
        """When the request under way was sent, in nanoseconds of the monotonic clock."""
        self.answer = b""
        self._missing = -1
        self._usual = 0
        """The length of the latest answer that came whole and well."""

    def send(self, data: bytes) -> None:
        """Begin a request."""
        self.answer = b""
        self._missing = -1
        self.sent_at = time.perf_counter_ns()
        self.socket.sendall(data)

    def receive(self) -> bool:
        """Read what has come; whether the answer is whole now. Raises BenchError when it is no good."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise BenchError("the server closed a connection")
        if len(data) == self._usual and data.startswith(_WELL) and not self.answer:
            self.answer = data  # like the one before: what it says of its length need not be read again
            return True
        if self._missing > 0:
            self._missing -= len(data)
            self.answer += data
        else:
            self.answer += data
            self._missing = _missing(self.answer, self.refusals)
        if self._missing == 0 and self.answer.startswith(_WELL):
            self._usual = len(self.answer)
        return self._missing == 0

    def ask(self, data: bytes) -> bytes:
        """Send a request and wait for its answer: the body."""
        self.send(data)
        while not self.receive():
            pass
        return self.answer.partition(b"\r\n\r\n")[2]

    def ask_json(self, data: bytes) -> Any:
        """The same, decoded."""
        return msgspec.json.decode(self.ask(data))

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def _missing(answer: bytes, refusals: bool) -> int:
    """How many bytes of the body are still to come; -1 while the head is not whole."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return -1
    if answer[9:11] != b"20" and not refusals:
        raise BenchError(f"the server answered {answer[:300]!r}")
    head = answer[:end].lower() + b"\r\n"
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise BenchError(f"an answer without a length: {head!r}")
    return end + 4 + int(head[at + 17 : head.index(b"\r\n", at + 2)]) - len(answer)


def wait_until(what: str, is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    """Ask again and again until it is so; BenchError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not after {seconds:g} s")
        time.sleep(POLL_S)


def counts(connection: Connection) -> dict[str, int]:
    """How many tasks the server has, by status."""
    found: dict[str, int] = connection.ask_json(request("GET", "/stats"))["counts"]
    return found


def wait_done(connection: Connection, tasks: int, seconds: float = 60.0) -> None:
    """Return when so many tasks are done, within the time between two questions; BenchError after `seconds`.

    A question costs the server as much as several tasks, so it is asked seldom while many are left.
    """
    began, first = time.monotonic(), counts(connection)["done"]
    done = first
    while done < tasks:
        passed = time.monotonic() - began
        if passed > seconds:
            raise BenchError(f"{tasks} tasks done: {done} after {seconds:g} s")
        left_s = (tasks - done) * passed / (done - first) if done > first else 0.0
        time.sleep(min(max(left_s / 2, POLL_S), LONGEST_PAUSE_S))
        done = counts(connection)["done"]
