"""The store as a plain dict: what each call of the Storage contract must answer, without SQL, files or threads.

It is written from the contract alone and as simply as possible, one task after the other, so that it may be believed.
Lease ids are the engine's to choose: `claim` is told which ones it gave. `seq` is only an order here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import UNSET
from msgspec.structs import asdict, replace

from jobpipe.core.errors import (
    AlreadyFinished,
    IdempotencyMismatch,
    Invalid,
    JobpipeError,
    LeaseLost,
    NotFound,
    NotUnique,
    NotWaiting,
    QueueFull,
    TaskExists,
    TooManyQueues,
)
from jobpipe.core.lifecycle import Event, Kind, Transition, refusal
from jobpipe.core.revision import Revision
from jobpipe.core.task import Attempt, NewTask, Status, Task, TaskError
from jobpipe.core.unique import Found, Known, OnConflict, name_of, unique_of
from jobpipe.storage.base import CancelChanged, Cancelled, SettleAnswer, Settled, Settlement, TaskFilter


@dataclass
class Lease:
    """The claim that runs a task. `ends` is on the clock that judges, None for one that does not expire."""

    lease_id: str
    lease_s: float | None
    local: bool
    ends: float | None
    orphaned: bool = False


@dataclass
class Row:
    """A task, its claim, its history, and the lease that settled it last with the answer given."""

    task: Task
    lease: Lease | None = None
    settled: tuple[str, Status] | None = None
    attempts: list[Attempt] = field(default_factory=list)
    keyed: bool = True
    """Whether its unique key, if it has one, was not taken from it: by a first claim, an end, or another task."""


class Model:
    """All tasks by id. Times are the store's: milliseconds (`now`), and seconds of the clock that judges leases."""

    def __init__(self, capacity: int, max_queues: int) -> None:
        self._capacity, self._max_queues = capacity, max_queues
        self.rows: dict[str, Row] = {}
        self._seq = 0

    # --- entering ---

    def insert(self, new: NewTask, now: int) -> Task | Known | type[JobpipeError]:
        """Accept one task, or say what stands for it, or with which error it is refused."""
        there = self.rows.get(new.id)
        if there is not None:
            if new.digest is None or there.task.digest is None:
                return TaskExists
            return (
                Known(there.task, Found.REPLAYED) if new.digest == there.task.digest else IdempotencyMismatch
            )
        living = self._living(new, now)
        if living is not None:
            return self._met(new, living, now)
        queues = {row.task.queue for row in self.rows.values()}
        if new.queue not in queues and len(queues) >= self._max_queues:
            return TooManyQueues
        if sum(row.task.queue == new.queue for row in self._with(Status.QUEUED)) >= self._capacity:
            return QueueFull
        self._seq += 1
        task = Task(
            seq=self._seq, id=new.id, handler=new.handler, queue=new.queue, payload=new.payload,
            priority=new.priority, status=Status.QUEUED, attempts=0, failures=0, lost=0,
            max_retries=new.max_retries, timeout=new.timeout, run_at=max(now, new.run_at or now),
            created_at=now, traceparent=new.traceparent, key=new.key, uniqueness=new.uniqueness,
            expires_at=new.expires_at, digest=new.digest, schedule=new.schedule, scheduled_for=new.scheduled_for,
        )  # fmt: skip
        self.rows[new.id] = Row(task)
        self._take(self.rows[new.id])
        return task

    def _met(self, new: NewTask, living: Row, now: int) -> Known | type[JobpipeError]:
        """What a task meets whose unique key `living` has."""
        rule = unique_of(new)
        if rule is None or rule.on_conflict is OnConflict.REJECT:
            return NotUnique
        if rule.on_conflict is OnConflict.RETURN or living.task.status is not Status.QUEUED:
            return Known(living.task, Found.DEDUPLICATED)
        run_at = max(now, new.run_at or now)
        if rule.within is not None:
            run_at = min(run_at, living.task.created_at + round(rule.within * 1000))
        living.task = replace(
            living.task, payload=new.payload, priority=new.priority, run_at=run_at, expires_at=new.expires_at
        )
        return Known(living.task, Found.REPLACED)

    def _living(self, task: Task | NewTask, now: int) -> Row | None:
        """Whose the unique key of the task is."""
        name = name_of(task)
        rows = [row for row in self.rows.values() if row.keyed and name_of(row.task) == name]
        return next((row for row in rows if name is not None and _holds(row.task, now)), None)

    def _take(self, taker: Row) -> None:
        """The unique key of this one is its own from now on."""
        for row in self.rows.values():
            if name_of(row.task) is not None and name_of(row.task) == name_of(taker.task):
                row.keyed = row is taker

    # --- running ---

    def due(self, queues: frozenset[str] | None, now: int) -> list[Task]:
        """The tasks that a claim takes, in order."""
        due = [task for task in self.waiting(queues) if task.run_at <= now and not _is_late(task, now)]
        return sorted(due, key=lambda task: (-task.priority, task.run_at, task.seq))

    def waiting(self, queues: frozenset[str] | None) -> list[Task]:
        """All queued tasks of `queues`."""
        return [row.task for row in self._with(Status.QUEUED) if queues is None or row.task.queue in queues]

    def claim(self, id: str, worker: str, lease: Lease, now: int) -> Task:
        """The engine took this task, with this lease."""
        row = self.rows[id]
        row.task = replace(
            row.task, status=Status.RUNNING, attempts=row.task.attempts + 1, started_at=now, worker=worker,
            expires_at=None,
        )  # fmt: skip
        rule = unique_of(row.task)
        row.keyed = row.keyed and (rule is None or rule.until != "start")
        row.lease, row.settled = lease, None
        return row.task

    def held(self, id: str, lease_id: str) -> Row | None:
        """The task, if this claim runs it."""
        row = self.rows.get(id)
        return row if row is not None and row.lease is not None and row.lease.lease_id == lease_id else None

    def settle(self, settlement: Settlement, now: int) -> SettleAnswer | type[JobpipeError]:
        """Write one transition, or answer what was answered before, or how it is refused."""
        row = self.held(settlement.id, settlement.lease_id)
        if row is None or settlement.transition is None:
            return self._earlier(settlement)
        if row.task.cancel_requested != settlement.cancel_requested:
            return CancelChanged()
        to = settlement.transition
        if to.kind is not Kind.DONE:
            task = row.task
            row.attempts.append(Attempt(to.attempt, to.outcome, task.started_at, now, task.worker, to.error))
        row.task = _written(row.task, to)
        row.lease = None
        row.settled = None if settlement.rescue else (settlement.lease_id, to.status)
        return Settled(to.status)

    def _earlier(self, settlement: Settlement) -> SettleAnswer | type[JobpipeError]:
        row = self.rows.get(settlement.id)
        if row is None:
            return NotFound
        if row.settled is not None and row.settled[0] == settlement.lease_id:
            return Settled(row.settled[1], repeated=True)
        return LeaseLost

    def lost(self, monotonic: float) -> list[str]:
        """The ids of running tasks whose holder is gone, the longest gone first."""
        gone = [
            (float("-inf") if lease.orphaned else lease.ends or 0.0, row.task.seq, row.task.id)
            for row, lease in self._leases()
            if lease.orphaned or (lease.ends is not None and lease.ends <= monotonic)
        ]
        return [id_ for _, _, id_ in sorted(gone)]

    def next_expiry(self, monotonic: float) -> float | None:
        """Seconds until the next claim is lost; None when none can be."""
        if any(lease.orphaned for _, lease in self._leases()):
            return 0.0
        ends = [lease.ends for _, lease in self._leases() if lease.ends is not None]
        return max(0.0, min(ends) - monotonic) if ends else None

    def restart(self, monotonic: float) -> None:
        """The server died and came again: its own workers are gone, the others get one full fresh lease."""
        for _, lease in self._leases():
            lease.orphaned = lease.local or lease.lease_s is None
            lease.ends = None if lease.lease_s is None else monotonic + lease.lease_s

    def outlive(self, end: float) -> None:
        """The server died, and others have the store: the claims of its own workers hold until `end`."""
        for _, lease in self._leases():
            lease.ends = end if lease.ends is None else lease.ends

    def _leases(self) -> list[tuple[Row, Lease]]:
        return [(row, row.lease) for row in self.rows.values() if row.lease is not None]

    # --- steering ---

    def cancel(self, id: str, now: int) -> Cancelled | type[JobpipeError]:
        """Cancel a queued task, mark a running one."""
        row = self._allowed(Event.CANCEL, id)
        if not isinstance(row, Row):
            return row
        if row.lease is None:
            row.task = replace(row.task, status=Status.CANCELLED, finished_at=now)
            return Cancelled(row.task)
        row.task = replace(row.task, cancel_requested=True)
        return Cancelled(row.task, row.lease.lease_id)

    def retry(self, id: str, now: int) -> Task | type[JobpipeError]:
        """Queue a failed or cancelled task again."""
        row = self._allowed(Event.RETRY, id)
        if not isinstance(row, Row):
            return row
        rule = unique_of(row.task)
        if rule is not None and (not isinstance(rule.until, float) or _holds(row.task, now)):
            if self._living(row.task, now) not in (None, row):
                return NotUnique
            self._take(row)
        row.task = replace(
            row.task, status=Status.QUEUED, attempts=0, failures=0, lost=0, run_at=now, started_at=None,
            finished_at=None, cancel_requested=False, worker=None, result=None, expires_at=None,
        )  # fmt: skip
        return row.task

    def revise(self, id: str, revision: Revision, now: int) -> Task | type[JobpipeError]:
        """Change a queued task."""
        row = self.rows.get(id)
        if row is None or row.task.status is not Status.QUEUED:
            return NotFound if row is None else AlreadyFinished if row.task.finished else NotWaiting
        said = {name: value for name, value in asdict(revision).items() if value is not UNSET}
        if "run_at" in said:
            said["run_at"] = max(now, said["run_at"] or now)
        changed = replace(row.task, **said)
        if changed.expires_at is not None and changed.expires_at < changed.run_at:
            return Invalid
        row.task = changed
        return changed

    def late(self, now: int) -> list[str]:
        """The waiting tasks that must end because nobody took them in time."""
        return [row.task.id for row in self._with(Status.QUEUED) if _is_late(row.task, now)]

    def expire(self, id: str, now: int) -> Task:
        """One of these ends."""
        row = self.rows[id]
        error = TaskError("expired", "no worker took it in time", None, row.task.attempts, now)
        row.task = replace(row.task, status=Status.CANCELLED, finished_at=now, last_error=error)
        return row.task

    def next_expiring(self) -> int | None:
        """When the next waiting task expires."""
        times = [row.task.expires_at for row in self._with(Status.QUEUED) if row.task.expires_at is not None]
        return min(times, default=None)

    def delete(self, id: str) -> Task | type[JobpipeError]:
        """Forget a finished task."""
        row = self._allowed(Event.DELETE, id)
        if not isinstance(row, Row):
            return row
        return self.rows.pop(id).task

    def prunable(self, finished_before: int | None, failed_before: int | None) -> list[str]:
        """Everything that a prune may take."""
        return [
            id_
            for id_, row in self.rows.items()
            if row.task.finished
            and (before := failed_before if row.task.status is Status.FAILED else finished_before) is not None
            and (row.task.finished_at or 0) < before
        ]

    def next_prunable(self) -> tuple[int | None, int | None]:
        """When the oldest done or cancelled task finished, and the oldest failed one."""
        kinds: tuple[tuple[Status, ...], ...] = ((Status.DONE, Status.CANCELLED), (Status.FAILED,))
        done, failed = (
            min((row.task.finished_at or 0 for status in kind for row in self._with(status)), default=None)
            for kind in kinds
        )
        return done, failed

    # --- reading ---

    def matching(self, where: TaskFilter) -> list[Task]:
        """What a listing shows, newest first."""
        tasks = [row.task for row in self.rows.values() if _matches(row.task, where)]
        return sorted(tasks, key=lambda task: -task.seq)

    def counts(self, tasks: Iterable[Task] | None = None) -> dict[Status, int]:
        """How many tasks have each status."""
        counts = dict.fromkeys(Status, 0)
        for task in (row.task for row in self.rows.values()) if tasks is None else tasks:
            counts[task.status] += 1
        return counts

    def queues(self) -> dict[str, dict[Status, int]]:
        """The same by queue."""
        names = sorted({row.task.queue for row in self.rows.values()})
        return {name: self.counts(self.matching(TaskFilter(queue=name))) for name in names}

    def oldest_ready(self, queue: str, now: int) -> int | None:
        """The `run_at` of the task that has been due longest."""
        return min(
            (task.run_at for task in self.waiting(frozenset({queue})) if task.run_at <= now), default=None
        )

    def _allowed(self, event: Event, id: str) -> Row | type[JobpipeError]:
        row = self.rows.get(id)
        if row is None:
            return NotFound
        no = refusal(event, id, row.task.status)
        return row if no is None else type(no)

    def _with(self, status: Status) -> Sequence[Row]:
        return [row for row in self.rows.values() if row.task.status is status]


def _is_late(task: Task, now: int) -> bool:
    return task.expires_at is not None and task.expires_at <= now


def _holds(task: Task, now: int) -> bool:
    """Whether a task keeps its unique key as it stands."""
    rule = unique_of(task)
    if rule is not None and isinstance(rule.until, float):
        return task.created_at + round(rule.until * 1000) > now
    return not task.finished


def _written(task: Task, to: Transition) -> Task:
    queued = to.status is Status.QUEUED
    return replace(
        task, status=to.status, run_at=to.run_at, attempts=to.attempts, failures=to.failures, lost=to.lost,
        finished_at=to.finished_at, result=to.result, last_error=to.error or task.last_error,
        cancel_requested=task.cancel_requested and not queued,
        started_at=None if queued else task.started_at, worker=None if queued else task.worker,
    )  # fmt: skip


def _matches(task: Task, where: TaskFilter) -> bool:
    asked = [
        where.status is None or task.status is where.status,
        where.queue is None or task.queue == where.queue,
        where.handler is None or task.handler == where.handler,
        where.error_type is None
        or (task.last_error is not None and task.last_error.type == where.error_type),
        where.id_prefix is None or task.id.startswith(where.id_prefix),
        where.created_after is None or task.created_at > where.created_after,
        where.created_before is None or task.created_at < where.created_before,
        where.ids is None or task.id in where.ids,
        where.schedule is None or task.schedule == where.schedule,
    ]
    return all(asked)
