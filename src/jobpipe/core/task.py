"""The values that the whole program speaks about: tasks, claims and their parts.

All are frozen; a change is a new value. Times are integer milliseconds since the epoch, durations float seconds.
Payloads and results are the JSON bytes that came, never parsed and written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

MAX_RETRIES_LIMIT = 1000
PRIORITY_MIN, PRIORITY_MAX = -100, 100
LEASE_S = 30.0
"""How long a lease holds where nobody says."""

MAX_DELAY_S = 10 * 365.25 * 86400
"""Ten years: the longest delay of a task and of a retry, and the longest timeout."""


class Status(StrEnum):
    """Where a task stands. A task waiting for a retry or for a later time is `queued` with `run_at` in the future."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_QUEUED = Status.QUEUED
FINISHED = frozenset({Status.DONE, Status.FAILED, Status.CANCELLED})


class TaskError(Struct, frozen=True, gc=False):
    """Why an attempt did not succeed. `at` is when it was settled.

    `since` is when a task was first due that has waited for its handler from then on.
    """

    type: str
    message: str
    traceback: str | None
    attempt: int
    at: int
    since: int | None = None


class Attempt(Struct, frozen=True):
    """An unsuccessful run of a task: `outcome` is failed, timed_out, lost, cancelled or released.

    `error` is None for what came to no error of its own (cancelled, released).
    """

    attempt: int
    outcome: str
    started_at: int | None
    ended_at: int
    worker: str | None
    error: TaskError | None


class NewTask(Struct, frozen=True, gc=False):
    """A task to be accepted: everything decided but its place in the order of acceptance.

    `run_at` None means now. `timeout` None means the handler's own, else the server's. What a task has beyond the plain
    fields is as in Task.
    """

    id: str
    handler: str
    payload: bytes = b"null"
    queue: str = "default"
    priority: int = 0
    max_retries: int = 3
    run_at: int | None = None
    timeout: float | None = None
    traceparent: str | None = None
    key: str | None = None
    uniqueness: str | None = None
    expires_at: int | None = None
    schedule: str | None = None
    scheduled_for: int | None = None
    digest: str | None = None


class Task(Struct, frozen=True, gc=False):
    """The stored record of one piece of work.

    `seq` is the order of acceptance. `attempts = failures + lost`, plus 1 for a run that is under way, done or
    cancelled. `started_at` and `worker` belong to the latest run and are None while the task is queued.

    None where a task does not use it: `key`, what it belongs to within its queue; `uniqueness`, its unique key with
    the rules of that as JSON; `expires_at`, when it is claimed no more (ms); `schedule` and `scheduled_for`, which
    schedule made it for which time (ms); `digest`, of the request with an Idempotency-Key that it came with.
    """

    seq: int
    id: str
    handler: str
    queue: str
    payload: bytes
    priority: int
    status: Status
    attempts: int
    failures: int
    lost: int
    max_retries: int
    timeout: float | None
    run_at: int
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    cancel_requested: bool = False
    worker: str | None = None
    result: bytes | None = None
    last_error: TaskError | None = None
    traceparent: str | None = None
    key: str | None = None
    uniqueness: str | None = None
    expires_at: int | None = None
    schedule: str | None = None
    scheduled_for: int | None = None
    digest: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the task has come to its end."""
        return self.status in FINISHED


def plain(tasks: Sequence[NewTask]) -> bool:
    """Whether none of them has more than the plain fields: such tasks take a shorter way, at every step."""
    return not [
        new
        for new in tasks
        if new.key is not None
        or new.uniqueness is not None
        or new.expires_at is not None
        or new.schedule is not None
        or new.scheduled_for is not None
        or new.digest is not None
    ]


def accepted(new: NewTask, seq: int, run_at: int, created_at: int) -> Task:
    """The task as it is once it was accepted."""
    return Task(
        seq, new.id, new.handler, new.queue, new.payload, new.priority, _QUEUED, 0, 0, 0, new.max_retries,
        new.timeout, run_at, created_at, traceparent=new.traceparent, key=new.key, uniqueness=new.uniqueness,
        expires_at=new.expires_at, schedule=new.schedule, scheduled_for=new.scheduled_for, digest=new.digest,
    )  # fmt: skip


class Claim(Struct, frozen=True, gc=False):
    """A claimed task and the proof of having claimed it.

    `lease_id` is new at every claim. `lease_until` is None for a claim of the pool in the server's own process, which
    does not expire while that process lives. `alone` asks that no other task run in the same worker process.
    """

    task: Task
    lease_id: str
    lease_until: int | None = None
    alone: bool = False
