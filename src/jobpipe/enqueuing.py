"""The ways of people's code to a queue, for `app.running(...)`: to the queue in this process, or to a server.

`LocalEnqueuer` goes through the same parsing as a request over HTTP, so that both refuse the same. `RemoteEnqueuer` is
for worker processes, with the server they work for, and for code outside of Jobpipe.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from jobpipe.clock import Clock, SystemClock
from jobpipe.core.errors import Invalid, JobpipeError
from jobpipe.tracing import sending, traceparent
from jobpipe.wire import Defaults, encode_task, parse_object
from jobpipe.work.enqueue import EnqueueRequest, Options

if TYPE_CHECKING:
    from jobpipe.client import AsyncClient, Client, Task
    from jobpipe.engine.queue import TaskQueue

T = TypeVar("T")


class LocalEnqueuer:
    """To a TaskQueue in this process; to be made on its event loop. `defaults` are what the server fills in."""

    def __init__(
        self, queue: TaskQueue, defaults: Defaults | None = None, clock: Clock | None = None
    ) -> None:
        from jobpipe.client.tasks import task_decoder

        self._queue = queue
        self._defaults = defaults or Defaults()
        self._clock = clock or SystemClock()
        self._loop = asyncio.get_running_loop()
        self._decoder = task_decoder

    async def enqueue(self, request: EnqueueRequest) -> Task:
        """From any event loop, the queue's own included."""
        with sending(request.queue, request.id):
            enqueueing = self._enqueue(request, traceparent())
            if asyncio.get_running_loop() is self._loop:
                return await enqueueing
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(enqueueing, self._loop))

    def enqueue_sync(self, request: EnqueueRequest) -> Task:
        """From any thread but the queue's own, which would wait for itself: RuntimeError."""
        if _running_loop() is self._loop:
            raise RuntimeError(
                "enqueue_sync would block the event loop that it waits for: await enqueue(...)"
            )
        with sending(request.queue, request.id):
            enqueueing = self._enqueue(request, traceparent())
            return asyncio.run_coroutine_threadsafe(enqueueing, self._loop).result()

    async def close(self) -> None:
        """Nothing to close: the queue belongs to others."""

    async def _enqueue(self, request: EnqueueRequest, trace: str | None) -> Task:
        task = parse_object(_body(request), self._defaults, self._clock.now(), trace)
        (answer,) = await self._queue.enqueue([task])
        if isinstance(answer, JobpipeError):
            raise answer
        return self._decoder.decode(encode_task(answer)).task()


class RemoteEnqueuer:
    """To a server over HTTP, by clients that are made at their first use: one for threads, one for each event loop.

    `url` and `key` as in `jobpipe.client.Client`.
    """

    def __init__(self, url: str | None = None, *, key: str | None = None) -> None:
        self._url = url
        self._key = key
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = WeakKeyDictionary()

    async def enqueue(self, request: EnqueueRequest) -> Task:
        """Over the connection of the running event loop."""
        from jobpipe.client import AsyncClient

        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._async_clients.get(loop)
            if client is None:
                client = self._async_clients[loop] = AsyncClient(self._url, key=self._key)
        return await client.enqueue(request.handler, request.payload, **_options(request))

    def enqueue_sync(self, request: EnqueueRequest) -> Task:
        """Over the connection for threads; blocks until the answer is there."""
        from jobpipe.client import Client

        with self._lock:
            client = self._client = self._client or Client(self._url, key=self._key)
        return client.enqueue(request.handler, request.payload, **_options(request))

    async def close(self) -> None:
        """Close the connections of threads and of the running event loop; others end with their loops."""
        with self._lock:
            client, self._client = self._client, None
            async_client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            client.close()
        if async_client is not None:
            await async_client.close()


def _body(request: EnqueueRequest) -> bytes:
    if request.run_at is not None and request.run_at.utcoffset() is None:
        raise Invalid("a time needs a time zone: datetime.now(UTC), not datetime.now()", field="run_at")
    return msgspec.json.encode(request)


def _options(request: EnqueueRequest) -> Options:
    return {
        "id": request.id,
        "queue": request.queue,
        "priority": request.priority,
        "delay": request.delay,
        "run_at": request.run_at,
        "timeout": request.timeout,
        "max_retries": request.max_retries,
        "key": request.key,
    }


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
