"""A server that says what a test tells it to, on a real socket, for the tests of the worker's side of the client."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, Status, Task


class Cut:
    """Instead of an answer: `sent` is written, then the connection ends."""

    def __init__(self, sent: bytes = b"") -> None:
        self.sent = sent


class Raw(bytes):
    """An answer to be written as it stands."""


class Status_(tuple[int, Any]):
    """A status and the JSON that goes with it."""

    def __new__(cls, status: int, body: Any) -> Status_:
        return super().__new__(cls, (status, body))


Route = Callable[[Any], Any]


class ScriptedServer:
    """Answers each request by the next of its path's script, else by its path's route.

    A scripted answer or a route's return value is JSON, a Status_, a Raw, a Cut, or an awaitable of one of these.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.heads: list[bytes] = []
        self.connections = 0
        self.hung_up = 0
        self.routes: dict[str, Route] = {}
        self.scripts: dict[str, deque[Any]] = {}
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    def script(self, path: str, *answers: Any) -> None:
        self.scripts.setdefault(path, deque()).extend(answers)

    async def start(self, socket: str | None = None, port: int = 0) -> ScriptedServer:
        if socket is not None:
            self._server = await asyncio.start_unix_server(self._serve, socket)
            self.url = f"unix:{socket}"
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
            self.url = f"http://127.0.0.1:{self.port}"
        return self

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.cut_all()
            await self._server.wait_closed()
            self._server = None

    def cut_all(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def __aenter__(self) -> ScriptedServer:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait until `true` holds; it is asked after each event of this server."""
        async with self._changed:
            await self._changed.wait_for(true)

    async def tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def bodies(self, path: str) -> list[Any]:
        """What was posted there, in order."""
        return [body for at, body in self.requests if at == path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up += 1
        finally:
            self._writers.discard(writer)
            writer.close()
            await self.tell()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        path = head.split(b" ", 2)[1].decode()
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
        body = msgspec.json.decode(await reader.readexactly(int(fields[b"content-length"])))
        self.requests.append((path, body))
        await self.tell()
        answer = self.scripts[path].popleft() if self.scripts.get(path) else self.routes[path](body)
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, Awaitable):
            answer = await self._unless_hung_up(reader, answer)
        if isinstance(answer, Cut):
            writer.write(answer.sent)
            return False
        writer.write(_written(answer))
        await writer.drain()
        return b"close" not in fields.get(b"connection", b"")

    async def _unless_hung_up(self, reader: asyncio.StreamReader, answer: Awaitable[Any]) -> Any:
        """As a server must: who waits for a client that hung up gives nothing."""
        waiting = asyncio.ensure_future(answer)
        eof = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((waiting, eof), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ConnectionResetError
            return waiting.result()
        finally:
            waiting.cancel()
            eof.cancel()
            await asyncio.sleep(0)  # the stream takes one reader at a time: this one lets go in the next turn


def _written(answer: Any) -> bytes:
    if isinstance(answer, Raw):
        return answer
    status, body = answer if isinstance(answer, Status_) else (200, answer)
    return http(status, msgspec.json.encode(body))


def http(status: int, body: bytes, *headers: bytes) -> Raw:
    """An answer as bytes."""
    lines = (b"HTTP/1.1 %d Status" % status, b"content-length: %d" % len(body), *headers, b"", body)
    return Raw(b"\r\n".join(lines))


def problem(status: int, code: str) -> Status_:
    """An error's answer."""
    return Status_(
        status, {"type": "about:blank", "title": "T", "status": status, "code": code, "error": "e"}
    )


def leased(id: str, **fields: Any) -> dict[str, Any]:
    """A task as `/lease` gives it."""
    time = "2026-11-21T21:09:00.123Z"
    return {
        "id": id, "handler": "noop", "queue": "default", "payload": {"n": 1}, "priority": 0, "status": "running",
        "attempts": 1, "failures": 0, "lost": 0, "max_retries": 3, "timeout": None, "run_at": time,
        "created_at": time, "started_at": time, "finished_at": None, "cancel_requested": False, "worker": "w",
        "result": None, "last_error": None, "lease_id": f"lease-{id}", "lease_until": time, **fields,
    }  # fmt: skip


def claim(id: str) -> Claim:
    """A claim as a source gives it."""
    task = Task(
        seq=0, id=id, handler="noop", queue="default", payload=b"null", priority=0, status=Status.RUNNING,
        attempts=1, failures=0, lost=0, max_retries=3, timeout=None, run_at=0, created_at=0,
    )  # fmt: skip
    return Claim(task, f"lease-{id}", 0)


def accept(body: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answer to settles that are all well."""
    return [{"id": item["id"], "accepted": True, "status": "done"} for item in body]


def extended(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The answer to leases that all hold."""
    return [
        {
            "id": one["id"],
            "extended": True,
            "lease_until": "2026-11-21T21:09:30Z",
            "cancel_requested": False,
        }
        for one in body["leases"]
    ]


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answers:
    """A server in a thread that answers each request by the next of these: bytes, Cut, or None for never."""

    def __init__(self, *answers: bytes | Cut | Callable[[Asked], bytes | Cut | None] | None) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []
        self.connections = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listening, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                method, path, _ = line.decode().split(" ")
                headers = {}
                while (field := stream.readline()) != b"\r\n":
                    name, _, value = field.decode().partition(": ")
                    headers[name.lower()] = value.strip()
                asked = Asked(method, path, headers, stream.read(int(headers.get("content-length", 0))))
                self.asked.append(asked)
                answer = self.answers.pop(0)
                if callable(answer):
                    answer = answer(asked)
                if isinstance(answer, Cut):
                    connection.sendall(answer.sent)
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                if answer is not None:
                    connection.sendall(answer)


DONE = Outcome(Kind.DONE, result=b"1")
