"""The client for ordinary code: one call, one answer. Made from `jobpipe.client.async_api` by `make client`:
change that one."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Unpack, overload

from jobpipe.client import enqueue, tasks, working
from jobpipe.client import queues as flow
from jobpipe.client.enqueue import PATIENCE_S
from jobpipe.client.flow import Caller, Item, Retries
from jobpipe.client.setup import retries_of, servers_of, timeout_of
from jobpipe.client.sync_schedules import Schedules
from jobpipe.client.tasks import Which
from jobpipe.client.transport import Transport
from jobpipe.client.values import (
    Changes,
    Enqueued,
    Extended,
    Filters,
    Lease,
    NewTask,
    OneTaskOptions,
    Settle,
    Settled,
    Task,
)
from jobpipe.core.errors import JobpipeError
from jobpipe.core.task import LEASE_S
from jobpipe.runtime.tracing import sending
from jobpipe.wire import BulkView, QueueView, StatsView
from jobpipe.wire.rules import KeyUseView, RuledQueueView
from jobpipe.wire.working import LeaseBody


class Client:
    """Calls to a server, from any number of threads; also a context manager.

    `url` is `http://host:port`, `https://...` or `unix:/path/to.sock`; left out, JOBPIPE_URL and JOBPIPE_KEY of the
    environment are used, else http://127.0.0.1:8080. `urls` names several servers of one store instead: the next is
    gone on to when one fails. `timeout` is seconds for one request. `retries` says how often a call is sent again when
    that can do no harm: 0 never, also not when the queue is full. `proxy` is `http://[user:password@]host:port`;
    proxies of the environment are not used.

    Every method raises the server's refusal as the error of `jobpipe.core.errors` with the same code (else
    ServerError), and ConnectionFailed (`unreachable`) without an answer. Connections are made when they are needed,
    each process has its own also after a fork, and they end with `close`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        urls: Sequence[str] | None = None,
        key: str | None = None,
        timeout: float = 10.0,
        retries: int | Retries = 3,
        proxy: str | None = None,
    ) -> None:
        self._caller = Caller(retries_of(retries))
        self._transport = Transport(servers_of(url, urls, key, proxy), timeout_of(timeout))
        self.schedules = Schedules(self._caller, self._transport)
        """Stored rules that make tasks at times."""

    def close(self) -> None:
        """Close the connections; safe twice."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- enqueueing ---

    def enqueue(
        self, handler: str | None = None, payload: Any = None, **options: Unpack[OneTaskOptions]
    ) -> Task:
        """Enqueue one task; when this returns, it is stored. Calls at the same moment share a request.

        Without an `id` the client makes one (UUIDv7), and a call whose answer was lost is repeated without making a
        second task. Raises TaskExists, QueueFull, TooManyQueues, Draining, Invalid, TooLarge, StorageError.
        """
        with sending(options.get("queue"), options.get("id")):
            return self._transport.run(
                enqueue.enqueue(self._caller, {"handler": handler, "payload": payload, **options})
            )

    def enqueue_item(self, item: Item) -> Task:
        """Enqueue a task that is JSON already."""
        return self._transport.run(enqueue.enqueue_item(self._caller, item))

    def enqueue_items(
        self, items: Collection[Item | JobpipeError], patience: float = PATIENCE_S
    ) -> builtins.list[Task | JobpipeError]:
        """As `enqueue_many`, of tasks that are JSON already, or errors in their place."""
        return self._transport.run(enqueue.enqueue_items(self._caller, items, patience))

    @overload
    def enqueue_many(
        self, tasks: Collection[NewTask], *, patience: float = PATIENCE_S
    ) -> builtins.list[Task | JobpipeError]: ...

    @overload
    def enqueue_many(self, tasks: Iterator[NewTask], *, patience: float = PATIENCE_S) -> Enqueued: ...

    def enqueue_many(
        self, tasks: Collection[NewTask] | Iterator[NewTask], *, patience: float = PATIENCE_S
    ) -> builtins.list[Task | JobpipeError] | Enqueued:
        """Enqueue any number of tasks, in batches. What a full queue refuses is sent again until it has room;
        `patience` is how many seconds may go by without room for any.

        For a list (or another collection) each item of the answer is the task, or the error in its place. An iterator
        may be endless as far as memory goes: the answer is the number, and what was refused for good with its index.

        Raises what refused the first batch as a whole, or ConnectionFailed. When a later batch fails, its tasks and
        all after it have that error as their answer; of an iterator it is raised, with a note how far it came.
        """
        with sending(None):
            if isinstance(tasks, Collection):
                return self._transport.run(enqueue.enqueue_many(self._caller, tasks, patience))
            return self._transport.run(enqueue.enqueue_stream(self._caller, tasks, patience))

    # --- reading ---

    def get(self, id: str) -> Task:
        """The task as it is now. Raises NotFound."""
        return self._transport.run(tasks.get(self._caller, id))

    def list(self, limit: int | None = None, **filters: Unpack[Filters]) -> Iterator[Task]:
        """Matching tasks, newest first, up to `limit` (None: all), fetched page by page."""
        query: str | None = tasks.first_query(limit, filters)
        while query is not None and limit != 0:
            found, query = self._transport.run(tasks.page(self._caller, query))
            for task in found[:limit]:
                yield task
            limit = None if limit is None else limit - len(found[:limit])

    def wait(self, id: str, timeout: float | None = None) -> Task:
        """The task when it is finished, also over a restart of the server.

        Raises TimeoutError after `timeout` seconds (None: wait on), NotFound.
        """
        return self._transport.run(tasks.wait(self._caller, id, timeout))

    def queues(self) -> builtins.list[QueueView]:
        """The queues that hold tasks, with their counts."""
        return self._transport.run(tasks.queues(self._caller))

    def queue(self, name: str) -> RuledQueueView:
        """A queue with its rules: `declared` by apps, `set` by people, and those in force. Raises NotFound."""
        return self._transport.run(flow.get(self._caller, name))

    def keys(self, queue: str, limit: int | None = None) -> Iterator[KeyUseView]:
        """Keys of a queue that have unfinished tasks or rules, by name, up to `limit` (None: all)."""
        query: str | None = "limit=1000"
        while query is not None and limit != 0:
            found, query = self._transport.run(flow.keys(self._caller, queue, query))
            for key in found[:limit]:
                yield key
            limit = None if limit is None else limit - len(found[:limit])

    def stats(self) -> StatsView:
        """The server at a glance."""
        return self._transport.run(tasks.stats(self._caller))

    def health(self) -> str:
        """`ok` from a server that serves, also while it drains."""
        return self._transport.run(tasks.health(self._caller))

    # --- steering ---

    def cancel(self, id: str) -> Task:
        """Cancel a queued task; ask the worker of a running one. Raises AlreadyFinished, NotFound."""
        return self._transport.run(tasks.cancel(self._caller, id))

    def retry(self, id: str) -> Task:
        """Queue a failed or cancelled task again, its counts cleared. Raises NotRetryable, NotFound."""
        return self._transport.run(tasks.retry(self._caller, id))

    def change(self, id: str, **changes: Unpack[Changes]) -> Task:
        """Change a task that waits; None clears. Raises NotWaiting, AlreadyFinished, NotFound, Invalid."""
        return self._transport.run(tasks.change(self._caller, id, changes))

    def delete(self, id: str) -> None:
        """Forget a finished task. Raises NotFinished, NotFound."""
        self._transport.run(tasks.delete(self._caller, id))

    def cancel_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> BulkView:
        """Cancel all that match the ids and filters; without either, `all` must say so. `dry_run` only counts."""
        return self._transport.run(tasks.bulk(self._caller, "cancel", Which(ids, all, dry_run), filters))

    def retry_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> BulkView:
        """Retry all that match and can be retried; as `cancel_many`."""
        return self._transport.run(tasks.bulk(self._caller, "retry", Which(ids, all, dry_run), filters))

    def delete_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **filters: Unpack[Filters],
    ) -> BulkView:
        """Delete all that match and are finished; as `cancel_many`."""
        return self._transport.run(tasks.bulk(self._caller, "delete", Which(ids, all, dry_run), filters))

    def rule_queue(self, name: str, **rules: Any) -> RuledQueueView:
        """Set rules: `concurrency=5`, `rate="100/m"`, `key_concurrency`, `key_rate`, `fair`, `capacity`, `paused`.

        None takes one back, "none" lifts an app's. Raises Invalid, TooManyQueues.
        """
        return self._transport.run(flow.rule(self._caller, name, rules))

    def unrule_queue(self, name: str) -> None:
        """Take back all that people set of a queue and its keys."""
        self._transport.run(flow.unrule(self._caller, name))

    def pause_queue(self, name: str) -> RuledQueueView:
        """Let nothing of a queue start; it goes on taking tasks."""
        return self._transport.run(flow.steer(self._caller, name, "pause"))

    def resume_queue(self, name: str) -> RuledQueueView:
        """End a pause, and a hold."""
        return self._transport.run(flow.steer(self._caller, name, "resume"))

    def rule_key(self, queue: str, key: str, **rules: Any) -> KeyUseView:
        """Set rules of one key: `paused`, `concurrency`, `rate`; as `rule_queue`."""
        return self._transport.run(flow.rule_key(self._caller, queue, key, rules))

    def unrule_key(self, queue: str, key: str) -> None:
        """Take back what people set of one key."""
        self._transport.run(flow.unrule_key(self._caller, queue, key))

    def declare(
        self,
        app: str,
        *,
        release: int = 0,
        queues: Mapping[str, Any] | None = None,
        schedules: Mapping[str, Any] | None = None,
        handlers: Mapping[str, Any] | None = None,
    ) -> None:
        """Say what holds of queues for an app, its schedules, and its handlers with the JSON Schema of the payload of
        each, in the place of what it said before, unless that release was higher.
        """
        said = {
            "app": app,
            "release": release,
            "queues": dict(queues or {}),
            "schedules": dict(schedules or {}),
            "handlers": dict(handlers or {}),
        }
        self._transport.run(flow.declare(self._caller, said))

    # --- working ---

    def lease(
        self,
        worker_id: str,
        *,
        queues: Sequence[str] = ("*",),
        max: int = 1,
        wait: float = 0.0,
        lease: float = LEASE_S,
    ) -> builtins.list[Lease]:
        """Take up to `max` due tasks to run here, waiting up to `wait` seconds (at most 60) for the first.

        Each is yours for `lease` seconds, until it is settled or extended. None when nothing was due, or at once
        from a server that drains.
        """
        wanted = LeaseBody(worker_id, [*queues], max, wait, lease)
        return self._transport.run(working.lease(self._caller, wanted))

    def settle(self, settles: Iterable[Settle]) -> builtins.list[Settled]:
        """Tell what became of leased tasks; the answers in the same order."""
        return self._transport.run(working.settle(self._caller, settles))

    def extend(
        self, worker_id: str, leases: Iterable[Lease], *, lease: float = LEASE_S
    ) -> builtins.list[Extended]:
        """Prolong leases to `lease` seconds from now, and learn which tasks somebody wants cancelled."""
        return self._transport.run(working.extend(self._caller, worker_id, leases, lease))
