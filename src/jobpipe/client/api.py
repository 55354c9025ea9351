"""The client for ordinary code: one call, one answer. Its twin for asyncio is `jobpipe.client.async_api`.

Everything but sending and sleeping is shared: what is sent and when it is sent again stands in `flow` and beside it.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from jobpipe.client import enqueue, tasks, working
from jobpipe.client.address import resolve
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Caller, Flow, Pause, Retries, resume
from jobpipe.client.tasks import Which
from jobpipe.client.transport import answer_of, arguments, failure_of, options
from jobpipe.client.values import (
    Extended,
    Filters,
    Lease,
    NewTask,
    Settle,
    Settled,
    Task,
    TaskOptions,
)
from jobpipe.core.errors import JobpipeError
from jobpipe.tracing import sending
from jobpipe.wire import BulkView, QueueView, StatsView
from jobpipe.wire.working import LeaseBody

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")


class Client:
    """A connection to a server; may be used by several threads, and as a context manager.

    `url` is `http://host:port`, `https://...` or `unix:/path/to.sock`; left out, JOBPIPE_URL and JOBPIPE_KEY of the
    environment are used, else http://127.0.0.1:8080. `timeout` is seconds for one request. `retries` says how often
    a call is sent again when that can do no harm: 0 never, also not when the queue is full. `transport` replaces
    httpx2's, in tests.

    Every method raises the server's refusal as the error of `jobpipe.core.errors` with the same code (else
    ServerError), and ConnectionFailed (`unreachable`) without an answer.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 10.0,
        retries: int | Retries = 3,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        import httpx2

        self._address, key = resolve(url, key)
        if transport is None and self._address.socket is not None:
            transport = httpx2.HTTPTransport(uds=self._address.socket)
        self._timeout = timeout
        self._caller = Caller(Retries(count=retries) if isinstance(retries, int) else retries)
        self._http = httpx2.Client(transport=transport, **options(self._address, key, timeout))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- enqueueing ---

    def enqueue(
        self, handler: str | None = None, payload: Any = None, **options: Unpack[TaskOptions]
    ) -> Task:
        """Enqueue one task; when this returns, it is stored.

        Without an `id` the client makes one (UUIDv7), and a call whose answer was lost is repeated without making a
        second task. Raises TaskExists, QueueFull, TooManyQueues, Draining, Invalid, TooLarge, StorageError.
        """
        with sending(options.get("queue"), options.get("id")):
            return self._run(
                enqueue.enqueue(self._caller, {"handler": handler, "payload": payload, **options})
            )

    def enqueue_many(self, tasks: Iterable[NewTask]) -> builtins.list[Task | JobpipeError]:
        """Enqueue any number of tasks, in batches; each item of the answer is the task, or the error in its place.

        Raises what refused the first batch as a whole, or ConnectionFailed. When a later batch fails, its tasks and
        all after it have that error as their answer.
        """
        with sending(None):
            return self._run(enqueue.enqueue_many(self._caller, tasks))

    # --- reading ---

    def get(self, id: str) -> Task:
        """The task as it is now. Raises NotFound."""
        return self._run(tasks.get(self._caller, id))

    def list(self, limit: int | None = None, **filters: Unpack[Filters]) -> Iterator[Task]:
        """Matching tasks, newest first, up to `limit` (None: all), fetched page by page."""
        query: str | None = tasks.first_query(limit, filters)
        while query is not None and limit != 0:
            found, query = self._run(tasks.page(self._caller, query))
            yield from found[:limit]
            limit = None if limit is None else limit - len(found[:limit])

    def wait(self, id: str, timeout: float | None = None) -> Task:
        """The task when it is finished. Raises TimeoutError after `timeout` seconds (None: wait on), NotFound."""
        return self._run(tasks.wait(self._caller, id, timeout))

    def queues(self) -> builtins.list[QueueView]:
        """The queues that hold tasks, with their counts."""
        return self._run(tasks.queues(self._caller))

    def stats(self) -> StatsView:
        """The server at a glance."""
        return self._run(tasks.stats(self._caller))

    def health(self) -> str:
        """`ok` from a server that serves, also while it drains."""
        return self._run(tasks.health(self._caller))

    # --- steering ---

    def cancel(self, id: str) -> Task:
        """Cancel a queued task; ask the worker of a running one. Raises AlreadyFinished, NotFound."""
        return self._run(tasks.cancel(self._caller, id))

    def retry(self, id: str) -> Task:
        """Queue a failed or cancelled task again, its counts cleared. Raises NotRetryable, NotFound."""
        return self._run(tasks.retry(self._caller, id))

    def delete(self, id: str) -> None:
        """Forget a finished task. Raises NotFinished, NotFound."""
        self._run(tasks.delete(self._caller, id))

    def cancel_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> BulkView:
        """Cancel all that match the ids and filters; without either, `all` must say so. `dry_run` only counts."""
        return self._run(tasks.bulk(self._caller, "cancel", Which(ids, all, dry_run), filters))

    def retry_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> BulkView:
        """Retry all that match and can be retried; as `cancel_many`."""
        return self._run(tasks.bulk(self._caller, "retry", Which(ids, all, dry_run), filters))

    def delete_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> BulkView:
        """Delete all that match and are finished; as `cancel_many`."""
        return self._run(tasks.bulk(self._caller, "delete", Which(ids, all, dry_run), filters))

    # --- working ---

    def lease(
        self,
        worker_id: str,
        *,
        queues: Sequence[str] = ("*",),
        max: int = 1,
        wait: float = 0.0,
        lease: float = 30.0,
    ) -> builtins.list[Lease]:
        """Take up to `max` due tasks to run here, waiting up to `wait` seconds (at most 60) for the first.

        Each is yours for `lease` seconds, until it is settled or extended. None when nothing was due, or at once
        from a server that drains.
        """
        wanted = LeaseBody(worker_id, [*queues], max, wait, lease)
        return self._run(working.lease(self._caller, wanted))

    def settle(self, settles: Iterable[Settle]) -> builtins.list[Settled]:
        """Tell what became of leased tasks; the answers in the same order."""
        return self._run(working.settle(self._caller, settles))

    def extend(
        self, worker_id: str, leases: Iterable[Lease], *, lease: float = 30.0
    ) -> builtins.list[Extended]:
        """Prolong leases to `lease` seconds from now, and learn which tasks somebody wants cancelled."""
        return self._run(working.extend(self._caller, worker_id, leases, lease))

    # --- driving ---

    def _run(self, flow: Flow[T]) -> T:
        outcome: Answer | ConnectionFailed | None = None
        try:
            while True:
                outcome = self._carry_out(resume(flow, outcome))
        except StopIteration as end:
            return cast("T", end.value)

    def _carry_out(self, step: Request | Pause) -> Answer | ConnectionFailed | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        import httpx2

        try:
            return answer_of(self._http.request(**arguments(step, self._timeout)))
        except httpx2.RequestError as error:
            return failure_of(error, self._address)
