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

from jobpipe.core.task import Status, Task
from jobpipe.engine.running import Running
from jobpipe.engine.signs import Known, Sign, Signs, State
from jobpipe.runtime.clock import Clock
from jobpipe.storage.base import TaskFilter
from jobpipe.storage.contract import Peers, Reading

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

    `total` is how many tasks it runs at a time, as it says itself (`told`) or as far as it showed; one that stops
    offers no more than it runs, one that is lost nothing. `queues` None means all. `last_seen` is milliseconds since
    the epoch. `leaving` says why it takes nothing new, to follow "it"; `replaced` whose place it took. Both are known
    of a server's own processes alone.
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
    state: State = State.ACTIVE
    release: int | None = None
    told: bool = False


class Announcement(Struct, frozen=True):
    """The workers that one server knows, as it tells the others."""

    server: str
    workers: list[Worker]


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
        self._signs = Signs()

    # --- told by the edge ---

    def asked(self, sign: Sign, *, own: bool = False) -> None:
        """A worker asks for tasks, and waits until it is `answered`."""
        known = self._of(sign, own)
        known.asks(sign)
        self._hear(known)

    def answered(self, worker_id: str) -> None:
        """What the worker asked for was answered, or it does not wait any more."""
        if known := self._signs.known.get(worker_id):
            known.asking = max(0, known.asking - 1)
            self._hear(known)

    def beat(self, worker_id: str, lease_s: float, *, own: bool = False) -> None:
        """A worker extends its leases; after a restart of the server that may be its first word."""
        self._hear(self._of(Sign(worker_id, 0, lease_s), own))

    def settles(self, id: str, lease_id: str) -> None:
        """The holder of this claim settles."""
        task = self._running.task(id, lease_id)
        known = None if task is None or task.worker is None else self._signs.known.get(task.worker)
        if known is not None:
            self._hear(known)

    def hung_up(self, worker_id: str) -> None:
        """A worker elsewhere took its wish for tasks back: it is gone once it runs nothing, unless it asks again."""
        if known := self._signs.known.get(worker_id):
            known.left = True

    def _of(self, sign: Sign, own: bool) -> Known:
        return self._signs.of(sign, own, self._clock.monotonic())

    def _hear(self, known: Known) -> None:
        self._signs.hear(known, self._clock.now(), self._clock.monotonic())

    def release_of(self, worker_id: str) -> int | None:
        """The release that a worker told."""
        known = self._signs.known.get(worker_id)
        return None if known is None else known.sign.release

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
        workers = [self._own(worker, runs.pop(worker.worker_id, {})) for worker in own.values()]
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

    def _own(self, worker: Worker, runs: dict[str, Task]) -> Worker:
        """One of this server's own, with what it holds; frozen ones are known by their silence."""
        known = self._signs.known.get(worker.worker_id)
        state = State.STOPPING if worker.leaving is not None else worker.state
        worker = replace(worker, tasks=_runs(runs.values()), state=state, told=True)
        if known is not None and known.own:
            lost = known.state(self._clock.monotonic()) is State.LOST
            worker = replace(
                worker, last_seen=known.at, release=known.sign.release, state=State.LOST if lost else state
            )
        return _standing(worker)

    def _elsewhere(self, runs: dict[str, dict[str, Task]]) -> Iterable[Worker]:
        """Who leases from here, and who holds a task of ours without having said a word since the start."""
        now = self._clock.monotonic()
        for worker_id, known in self._signs.known.items():
            if known.own:
                continue
            tasks = runs.pop(worker_id, {})
            if tasks or not (known.left or known.forgotten(now)):
                yield _worker(known, _runs(tasks.values()), known.state(now))
        for worker_id, tasks in runs.items():
            began = max(task.started_at or 0 for task in tasks.values())
            yield Worker(worker_id, began, len(tasks), len(tasks), tasks=_runs(tasks.values()))


def _nobody(worker: str) -> bool:
    return False


def _worker(known: Known, runs: tuple[WorkerRun, ...], state: State) -> Worker:
    sign, total = known.sign, known.slots(len(runs))
    return _standing(
        Worker(
            sign.worker_id, known.at, total, min(total, len(runs)), sign.host, sign.pid, sign.version, sign.queues,
            runs, state=state, release=sign.release, told=sign.total is not None,
        )
    )  # fmt: skip


def _standing(worker: Worker) -> Worker:
    """The worker with the slots that count: none of one that is lost, of one that stops those that it still uses."""
    if worker.state is State.ACTIVE:
        return worker
    busy = 0 if worker.state is State.LOST else worker.busy
    return replace(worker, total=busy, busy=busy)


def _announcement(data: bytes) -> Announcement | None:
    try:
        return msgspec.json.decode(data, type=Announcement)
    except ValueError:  # of another version
        return None


def _merged(one: Worker, other: Worker) -> Worker:
    """A worker that several servers know, since it calls now the one and now the other."""
    latest, earlier = (one, other) if one.last_seen >= other.last_seen else (other, one)
    runs = {run.id: run for run in (*earlier.tasks, *latest.tasks)}
    total = latest.total if latest.told else max(one.total, other.total, len(runs))
    merged = replace(
        latest, total=total, busy=min(total, max(len(runs), latest.busy)), tasks=tuple(runs.values())
    )
    return _standing(merged)


def _by_worker(tasks: Iterable[Task]) -> dict[str, dict[str, Task]]:
    by_worker: dict[str, dict[str, Task]] = {}
    for task in tasks:
        by_worker.setdefault(task.worker or "", {})[task.id] = task
    return by_worker


def _runs(tasks: Iterable[Task]) -> tuple[WorkerRun, ...]:
    return tuple(WorkerRun(task.id, task.handler, task.started_at) for task in tasks)
