"""Enqueueing by people's code: what a call asks for, and who carries it to the queue.

`work` knows no way to a queue. The composition provides an Enqueuer: in the server's own process it leads to the
TaskQueue, in a worker process to the server over HTTP; outside of any, to the server at JOBPIPE_URL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Protocol, TypedDict, Unpack

from msgspec import Raw, Struct

from jobpipe.core.errors import JobpipeError
from jobpipe.core.task import Status
from jobpipe.core.unique import UniqueRules


class Options(TypedDict, total=False):
    """How a task is to be run. What is left out or None is the handler's to say, else the server's.

    `delay` and `timeout` are seconds; `run_at` needs a time zone and excludes `delay`. `unique` is a key that one
    living task of the handler has; `expires`, seconds or a time, is when a task that no worker took is cancelled.
    """

    id: str | None
    queue: str | None
    priority: int | None
    delay: float | None
    run_at: datetime | None
    timeout: float | None
    max_retries: int | None
    key: str | None
    unique: str | UniqueRules | None
    expires: float | datetime | None


class EnqueueRequest(Struct, frozen=True, omit_defaults=True):
    """A task to enqueue; its JSON form is what `POST /enqueue` takes. None leaves a field to the server."""

    handler: str
    payload: Raw
    id: str | None = None
    queue: str | None = None
    priority: int | None = None
    delay: float | None = None
    run_at: datetime | None = None
    timeout: float | None = None
    max_retries: int | None = None
    key: str | None = None
    unique: str | UniqueRules | None = None
    expires: float | datetime | None = None


class AcceptedTask(Protocol):
    """A task that was enqueued, as the queue answered it. Times are aware datetimes."""

    @property
    def id(self) -> str: ...
    @property
    def handler(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def payload(self) -> Any: ...
    @property
    def priority(self) -> int: ...
    @property
    def status(self) -> Status: ...
    @property
    def max_retries(self) -> int: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def run_at(self) -> datetime: ...
    @property
    def created_at(self) -> datetime: ...


class Enqueuer(Protocol):
    """A way to a queue. Both verbs return when the task is stored, and raise the error that refused it."""

    async def enqueue(self, request: EnqueueRequest) -> AcceptedTask:
        """Enqueue from a coroutine, on any event loop."""
        ...

    def enqueue_sync(self, request: EnqueueRequest) -> AcceptedTask:
        """Enqueue from a thread that may block."""
        ...

    async def enqueue_many(self, requests: Iterable[EnqueueRequest | JobpipeError]) -> Sequence[Any]:
        """Enqueue them in batches, and wait for room where a queue is full; each one's task or error, in order.

        What is an error already stays where it is.
        """
        ...

    def enqueue_many_sync(self, requests: Iterable[EnqueueRequest | JobpipeError]) -> Sequence[Any]:
        """`enqueue_many` from a thread that may block."""
        ...

    async def wait(self, id: str, timeout: float | None) -> Any:
        """The task when it is finished. Raises TimeoutError after `timeout` seconds (None: wait on), NotFound."""
        ...

    def wait_sync(self, id: str, timeout: float | None) -> Any:
        """`wait` from a thread that may block."""
        ...

    async def close(self) -> None:
        """Close connections, if there are any; safe when called twice."""
        ...


class Connecting(TypedDict, total=False):
    """How to reach a server: what `jobpipe.client.Client` takes beside its URL."""

    urls: Sequence[str] | None
    key: str | None
    timeout: float
    retries: int
    proxy: str | None


class Connect(Protocol):
    """From a server's URL, None for that of the environment, to an Enqueuer. Connects at its first use."""

    def __call__(self, url: str | None, /, **arguments: Unpack[Connecting]) -> Enqueuer: ...


_HERE: Final = "here"
_connect: Connect | None = None


def connect_by(connect: Connect) -> None:
    """Say how code outside of any Jobpipe process reaches its server; the package does, once, when it is imported."""
    global _connect  # noqa: PLW0603 - one way for all apps, since apps are made at import
    _connect = connect


class Route:
    """The way of one app's tasks: through the process that runs the app, else through a connection of its own."""

    def __init__(self) -> None:
        self._provided: Enqueuer | None = None
        self._connected: dict[str, Enqueuer] = {}

    def find(self) -> Enqueuer:
        """The enqueuer to use now."""
        if self._provided is not None:
            return self._provided
        # Without a lock, which a fork could leave locked for ever: who comes second takes the first one's.
        return self._connected.get(_HERE) or self._connected.setdefault(_HERE, _made(None))

    @contextmanager
    def through(self, enqueuer: Enqueuer | None) -> Iterator[None]:
        """Use `enqueuer` while this context lasts, before any connection; None changes nothing."""
        if enqueuer is None:
            yield
            return
        before, self._provided = self._provided, enqueuer
        try:
            yield
        finally:
            self._provided = before

    def connect(self, url: str | None, **arguments: Unpack[Connecting]) -> None:
        """Connect to this server from now on."""
        self._connected[_HERE] = _made(url, **arguments)

    async def disconnect(self) -> None:
        """Close the connection, if there is one."""
        connected = self._connected.pop(_HERE, None)
        if connected is not None:
            await connected.close()


def _made(url: str | None, **arguments: Unpack[Connecting]) -> Enqueuer:
    if _connect is None:
        raise RuntimeError("nothing was said about how to connect")
    return _connect(url, **arguments)
