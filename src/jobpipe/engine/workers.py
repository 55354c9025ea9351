"""Who works: this server's own workers, those elsewhere that lease from it, and what each of them runs.

Workers elsewhere are known by their calls alone, and forgotten when they stay silent. What they run is read from the
runs under way when somebody asks, so that a call costs nothing but a note of its time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from jobpipe.clock import Clock
from jobpipe.core.task import Status, Task
from jobpipe.engine.running import Running
from jobpipe.storage.base import TaskFilter
from jobpipe.storage.contract import Peers, Reading

KEPT_S = 90.0
"""How long a silent worker is remembered: longer than the longest poll; or two of its leases, if that is more."""
MOST_REMEMBERED = 5_000
MOST_QUEUES = 20
"""Of the queues that a worker names, so many are remembered: what one call may name would else be kept for all."""
MOST_STRAYS = 1000
STRAY_BYTES = 1024 * 1024


class _Store(Reading, Peers, Protocol):
    """What is asked of a store here."""


class WorkerRun(Struct, frozen=True):
    """A task that a worker runs; `started_at` in milliseconds since the epoch."""

    id: str
    handler: str
    started_at: int | None


class Replaced(Struct, frozen=True):
    """Why a worker process took another's place, to follow "one that", and when, in milliseconds since the epoch."""

    reason: str
    at: int


class Worker(Struct, frozen=True):
    """One worker process, or the pool in a server's own process (not `apart`).

    `total` is how many tasks it runs at a time, as it is known here or as far as it showed; `queues` None means all.
    `last_seen` is milliseconds since the epoch. `leaving` says why it takes nothing new, to follow "it"; `replaced`
    whose place it took. Both are known of a server's own processes alone.
    """

    worker_id: str
    last_seen: int
    total: int
    busy: int
    host: str | None = None
    pid: int | None = None
    version: str | None = None
    queues: tuple[str, ...] | None = None
    tasks: tuple[WorkerRun, ...] = ()
    apart: bool = True
    leaving: str | None = None
    replaced: Replaced | None = None


class Sign(Struct, frozen=True):
    """What a worker elsewhere says about itself when it asks for up to `wants` tasks under leases of `lease_s`."""

    worker_id: str
    wants: int
    lease_s: float
    queues: tuple[str, ...] | None = None
    host: str | None = None
    pid: int | None = None
    version: str | None = None


class Announcement(Struct, frozen=True):
    """The workers that one server knows, as it tells the others."""

    server: str
    workers: list[Worker]


class _Known:
    """A worker elsewhere: its latest words, the most it ever wanted, and its latest call by both clocks."""

    __slots__ = ("at", "heard", "left", "most", "sign")

    def __init__(self, sign: Sign) -> None:
        self.sign = sign
        self.most = 0
        self.at = 0
        self.heard = 0.0
        self.left = False


class Workers:
    """The workers of one server. `own` gives its own ones, `trouble` says why none of them can work, although they
    should: both are there to be replaced."""

    def __init__(self, storage: _Store, running: Running, clock: Clock) -> None:
        self.own: Callable[[], Sequence[Worker]] = tuple
        self.owns: Callable[[str], bool] = _nobody
        """Whether an id is one of this server's own workers: nobody else may go by it."""
        self.trouble: Callable[[], str | None] = lambda: None
        self.server = secrets.token_hex(6)
        """By which other servers of the store know this one."""
        self._storage = storage
        self._running = running
        self._clock = clock
        self._known: dict[str, _Known] = {}
        """The longest silent first."""

    # --- told by the edge ---

    def asked(self, sign: Sign) -> None:
        """A worker elsewhere asks for tasks."""
        known = self._known.pop(sign.worker_id, None)
        if known is None:
            self._make_room()
            known = _Known(sign)
        many = sign.queues is not None and len(sign.queues) > MOST_QUEUES
        known.sign = replace(sign, queues=(sign.queues or ())[:MOST_QUEUES]) if many else sign
        known.most = max(known.most, sign.wants)
        known.left = False
        self._hear(known)

    def beat(self, worker_id: str, lease_s: float) -> None:
        """A worker elsewhere extends its leases; after a restart of the server that may be its first word."""
        known = self._known.pop(worker_id, None)
        if known is None:
            self._make_room()
            known = _Known(Sign(worker_id, 0, lease_s))
        self._hear(known)

    def settles(self, id: str, lease_id: str) -> None:
        """The holder of this claim settles."""
        task = self._running.task(id, lease_id)
        known = None if task is None or task.worker is None else self._known.pop(task.worker, None)
        if known is not None:
            self._hear(known)

    def hung_up(self, worker_id: str) -> None:
        """A worker elsewhere took its wish for tasks back: it is gone once it runs nothing, unless it asks again."""
        if known := self._known.get(worker_id):
            known.left = True

    def _hear(self, known: _Known) -> None:
        known.at, known.heard = self._clock.now(), self._clock.monotonic()
        self._known[known.sign.worker_id] = known

    def _make_room(self) -> None:
        """Forget who was silent for long, and at the bound the longest silent."""
        now = self._clock.monotonic()
        while self._known:
            worker_id, known = next(iter(self._known.items()))
            if len(self._known) < MOST_REMEMBERED and not _silent(known, now):
                return
            del self._known[worker_id]

    # --- asked by people ---

    async def all(self) -> list[Worker]:
        """All workers and what they run, by their ids. Raises StorageError."""
        announced = [worker for said in await self._announced() for worker in said.workers]
        known = {run.id for worker in announced for run in worker.tasks}
        strays = [task for task in await self._strays(len(known)) if task.id not in known]
        workers: dict[str, Worker] = {}
        for worker in (*self.here(strays), *announced):
            before = workers.get(worker.worker_id)
            workers[worker.worker_id] = worker if before is None else _merged(before, worker)
        return sorted(workers.values(), key=lambda worker: worker.worker_id)

    def here(self, strays: Sequence[Task] = ()) -> list[Worker]:
        """The workers that this server knows, with what they run; `strays` are runs that it did not hand out."""
        runs = _by_worker(self._running.tasks())
        for stray in strays:
            runs.setdefault(stray.worker or "", {}).setdefault(stray.id, stray)
        own = {worker.worker_id: worker for worker in self.own()}
        workers = [self._with_runs(worker, runs.pop(worker.worker_id, {})) for worker in own.values()]
        return [*workers, *self._elsewhere(runs)]

    async def _announced(self) -> list[Announcement]:
        """What the other servers of the store say."""
        if not self._storage.shared:
            return []
        said = [_announcement(data) for data in await self._storage.announced()]
        return [announcement for announcement in said if announcement and announcement.server != self.server]

    async def _strays(self, elsewhere: int) -> Sequence[Task]:
        """Running tasks that nobody handed out who is here now: claimed before the start of a server."""
        running = (await self._storage.counts()).get(Status.RUNNING, 0)
        if running <= len(self._running) + elsewhere:
            return ()
        where = TaskFilter(status=Status.RUNNING)
        return (await self._storage.page(where, MOST_STRAYS, None, STRAY_BYTES)).tasks

    def _with_runs(self, worker: Worker, runs: dict[str, Task]) -> Worker:
        return replace(worker, tasks=_runs(runs.values()))

    def _elsewhere(self, runs: dict[str, dict[str, Task]]) -> Iterable[Worker]:
        """Who leases from here, and who holds a task of ours without having said a word since the start."""
        now = self._clock.monotonic()
        for worker_id, known in self._known.items():
            tasks = runs.pop(worker_id, {})
            if tasks or not (known.left or _silent(known, now)):
                yield _worker(known, _runs(tasks.values()))
        for worker_id, tasks in runs.items():
            began = max(task.started_at or 0 for task in tasks.values())
            yield Worker(worker_id, began, len(tasks), len(tasks), tasks=_runs(tasks.values()))


def _nobody(worker: str) -> bool:
    return False


def _silent(known: _Known, now: float) -> bool:
    return now - known.heard > max(KEPT_S, 2 * known.sign.lease_s)


def _worker(known: _Known, runs: tuple[WorkerRun, ...]) -> Worker:
    sign, busy = known.sign, len(runs)
    return Worker(
        sign.worker_id, known.at, max(known.most, busy), busy, sign.host, sign.pid, sign.version, sign.queues, runs
    )  # fmt: skip


def _announcement(data: bytes) -> Announcement | None:
    try:
        return msgspec.json.decode(data, type=Announcement)
    except ValueError:  # of another version
        return None


def _merged(one: Worker, other: Worker) -> Worker:
    """A worker that several servers know, since it calls now the one and now the other."""
    latest, earlier = (one, other) if one.last_seen >= other.last_seen else (other, one)
    runs = {run.id: run for run in (*earlier.tasks, *latest.tasks)}
    total = max(one.total, other.total, len(runs))
    return replace(latest, total=total, busy=max(len(runs), latest.busy), tasks=tuple(runs.values()))


def _by_worker(tasks: Iterable[Task]) -> dict[str, dict[str, Task]]:
    by_worker: dict[str, dict[str, Task]] = {}
    for task in tasks:
        by_worker.setdefault(task.worker or "", {})[task.id] = task
    return by_worker


def _runs(tasks: Iterable[Task]) -> tuple[WorkerRun, ...]:
    return tuple(WorkerRun(task.id, task.handler, task.started_at) for task in tasks)
