"""What answers look like. A task is written by hand, because it is written most and its payload must stay as it came;
everything else is a struct that msgspec writes. The `...View` structs are also the schemas of the OpenAPI document, and
the tests hold the hand-written form against `TaskView`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from jobpipe.core.gate import Held
from jobpipe.core.keys import Scope
from jobpipe.core.rates import MAX_LIMIT, MAX_PERIOD_S, MIN_PERIOD_S
from jobpipe.core.shape import error_group
from jobpipe.core.task import Attempt, Status, Task, TaskError
from jobpipe.core.unique import Found, Known, Unique
from jobpipe.wire.times import format_time

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Count = Annotated[int, Meta(ge=0)]


class ErrorView(Struct):
    """Why the latest unsuccessful attempt did not succeed."""

    type: str
    message: str
    traceback: str | None
    attempt: Count
    at: Time


class TaskView(Struct):
    """A task. `attempts = failures + lost`, plus 1 for a run that is under way, done or cancelled."""

    id: str
    handler: str
    queue: str
    payload: Raw
    priority: int
    status: Status
    attempts: Count
    failures: Count
    lost: Count
    max_retries: Count
    timeout: float | None
    run_at: Time
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    cancel_requested: bool
    worker: str | None
    result: Raw
    last_error: ErrorView | None
    key: str | UnsetType = UNSET
    unique: Unique | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
    schedule: str | UnsetType = UNSET
    scheduled_for: Time | UnsetType = UNSET
    held: Held | UnsetType = UNSET
    error_group: Annotated[str, Meta(description="Of `last_error`, as /errors tells it.")] | UnsetType = UNSET


class KeyView(Struct):
    """The key that the request was sent with. `keys` false: the server asks for none, and everything is allowed."""

    keys: bool
    name: str | None
    scopes: list[Scope]


class AttemptView(Struct):
    """An unsuccessful run of a task."""

    attempt: Count
    outcome: Literal["failed", "timed_out", "lost", "cancelled", "released"]
    started_at: Time | None
    ended_at: Time
    worker: str | None
    error: ErrorView | None


class RateBody(Struct, forbid_unknown_fields=True):
    """Starts in a period (seconds), evenly spaced; after a rest `burst` of them may come at once."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)]
    period: Annotated[float, Meta(ge=MIN_PERIOD_S, le=MAX_PERIOD_S)]
    burst: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] | None = None


class RulesView(Struct, omit_defaults=True):
    """Rules that are in force, or said; those that are not are left out. `rate` is as it was sent."""

    paused: bool | UnsetType = UNSET
    capacity: int | Literal["none"] | UnsetType = UNSET
    concurrency: int | Literal["none"] | UnsetType = UNSET
    rate: str | RateBody | UnsetType = UNSET
    key_concurrency: int | Literal["none"] | UnsetType = UNSET
    key_rate: str | RateBody | UnsetType = UNSET
    fair: bool | Literal["none"] | UnsetType = UNSET


class QueueView(Struct):
    """The counts of a queue; `oldest_ready_s` is for how long its oldest due task has waited, `refused_per_s` what this
    server refused for want of room within the last minute, left out where it refused none.
    `rules` are those in force."""

    queue: str
    queued: Count
    running: Count
    done: Count
    failed: Count
    cancelled: Count
    capacity: Count
    oldest_ready_s: Annotated[float, Meta(ge=0)] | None
    refused_per_s: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    paused: bool = False
    rules: RulesView | UnsetType = UNSET


class ErrorGroupView(Struct):
    """Unsuccessful runs with the same handler, error type and shape of message, within the window that was asked for.

    `trend` divides the window into 24 equal parts, the oldest first; `example_id` is the task that failed last.
    """

    group: str
    handler: str
    type: str
    message: str
    count: Count
    first_seen: Time
    last_seen: Time
    example_id: str
    trend: list[Count]


class PointView(Struct):
    """What happened in one minute; `at` is its beginning, `queued` how many tasks waited at its end.

    `wait_...` and `run_...` are percentiles in seconds, null where nothing began or ended.
    """

    at: Time
    enqueued: Count
    done: Count
    failed: Count
    cancelled: Count
    retried: Count
    rescued: Count
    queued: Count
    wait_p50: float | None
    wait_p95: float | None
    wait_p99: float | None
    run_p50: float | None
    run_p95: float | None
    run_p99: float | None


class BulkView(Struct):
    """How many tasks matched, and how many were changed."""

    matched: Count
    changed: Count


class RatesView(Struct):
    """Per second, over the last minute, on this server; refused is what found no room in its
    queue, left out where there was none."""

    enqueued_per_s: float
    finished_per_s: float
    failed_per_s: float
    refused_per_s: float | UnsetType = UNSET


class WorkersView(Struct):
    """Workers in all, own ones and those elsewhere; those that run a task now; the worker processes that hold them.

    A process that is lost counts for none of the three, what a worker claimed ahead is not busy."""

    total: Count
    busy: Count
    processes: Count


class WorkerTaskView(Struct):
    """A task that a worker runs."""

    id: str
    handler: str
    started_at: Time | None


class ReplacedView(Struct):
    """Why a worker process took the place of another, and when."""

    reason: str
    at: Time


class WorkerView(Struct):
    """A worker process, or the pool in a server's own process; `total` is how many tasks it runs at a time.

    `state`: `stopping` takes nothing new and offers no more slots than it still uses; `lost` gave no sign for a whole
    lease and offers none. `host`, `pid`, `version` and `release` (its app's) are null where the worker did not say.
    Of a server's own processes: `leaving` says why one takes nothing new and ends with what it runs, `replaced` why
    one took another's place.
    """

    worker_id: str
    host: str | None
    pid: Count | None
    version: str | None
    queues: list[str]
    busy: Count
    total: Count
    last_seen: Time
    tasks: list[WorkerTaskView]
    state: Literal["active", "stopping", "lost"]
    release: Count | None
    leaving: str | UnsetType = UNSET
    replaced: ReplacedView | UnsetType = UNSET


class WaitingView(Struct):
    """Of the queued tasks those whose time has not come, before their first run and after one; as of a few seconds ago,
    and no more than 10,000 together are counted."""

    scheduled: Count
    retrying: Count


class StatsView(Struct):
    """The server at a glance; in `store` passwords are masked. `degraded` is a server that should work and has no
    worker that can: `trouble` says why."""

    version: str
    uptime_s: float
    store: str
    status: Literal["ok", "draining", "degraded"]
    counts: dict[Status, Count]
    waiting: WaitingView
    rates: RatesView
    workers: WorkersView
    trouble: str | UnsetType = UNSET
    paused_queues: Annotated[Count, Meta(description="Left out when it is 0.")] | UnsetType = UNSET
    timeout: (
        Annotated[
            float, Meta(description="Seconds of a run whose task and handler say none; left out: no limit.")
        ]
        | UnsetType
    ) = UNSET


class HealthView(Struct):
    """The server is well."""

    status: Literal["ok"] = "ok"


class Problem(Struct, kw_only=True):
    """RFC 9457 problem details. `code` is for programs and stable; `error` is one short sentence for people."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    error: str
    detail: str | UnsetType = UNSET
    field: str | UnsetType = UNSET


class AcceptedView(Struct):
    """An item of a batch that was accepted."""

    status: Literal[200, 201, 202]
    task: TaskView


class KnownView(Struct):
    """The task that stands for one that was not accepted anew; with all its fields for who may read."""

    id: str
    status: Status
    deduplicated: bool | UnsetType = UNSET
    replaced: bool | UnsetType = UNSET


class KnownItemView(Struct):
    """An item of a batch for which another task stands."""

    status: Literal[200]
    task: KnownView


_STATUS = {status: b'"%b"' % status.encode() for status in Status}
_ID = b'{"id":'
_PAYLOAD = b',"payload":'
_BOOL = (b"false", b"true")
_encoder = msgspec.json.Encoder()
_encode = _encoder.encode


def encode_task(task: Task) -> bytes:
    """The task as the contract writes it."""
    return (
        b'{"id":%b,"handler":%b,"queue":%b,"payload":%b,"priority":%d,"status":%b,"attempts":%d,"failures":%d,'
        b'"lost":%d,"max_retries":%d,"timeout":%b,"run_at":%b,"created_at":%b,"started_at":%b,"finished_at":%b,'
        b'"cancel_requested":%b,"worker":%b,"result":%b,"last_error":%b%b}'
        % (
            _encode(task.id),
            _encode(task.handler),
            _encode(task.queue),
            task.payload,
            task.priority,
            _STATUS[task.status],
            task.attempts,
            task.failures,
            task.lost,
            task.max_retries,
            b"null" if task.timeout is None else _encode(task.timeout),
            format_time(task.run_at),
            format_time(task.created_at),
            b"null" if task.started_at is None else format_time(task.started_at),
            b"null" if task.finished_at is None else format_time(task.finished_at),
            _BOOL[task.cancel_requested],
            b"null" if task.worker is None else encode_text(task.worker),
            b"null" if task.result is None else task.result,
            b"null" if task.last_error is None else _encode_error(task.last_error),
            b"" if _plain(task) else _beyond(task),
        )
    )


def with_held(task: bytes, held: Held | None) -> bytes:
    """A task as it was written, with the reason why it is not claimed although it is due."""
    return (
        task
        if held is None
        else b'%b%b"held":"%b"}' % (task[:-1], b"," if len(task) > 2 else b"", held.encode())
    )


def encode_known(known: Known, *, whole: bool = True) -> bytes:
    """A task that stands for one that was not accepted anew, and why; not `whole` for those who may not read it."""
    task = known.task
    told = encode_task(task) if whole else b'{"id":%b,"status":%b}' % (_encode(task.id), _STATUS[task.status])
    return told if known.found is Found.REPLAYED else b'%b,"%b":true}' % (told[:-1], known.found.encode())


def _plain(task: Task) -> bool:
    return (
        task.last_error is None
        and task.key is None
        and task.uniqueness is None
        and task.expires_at is None
        and task.schedule is None
        and task.scheduled_for is None
    )


def _beyond(task: Task) -> bytes:
    """What a task has only where it uses it, each with a comma before."""
    return b"".join([
        b"" if task.key is None else b',"key":%b' % _encode(task.key),
        b"" if task.uniqueness is None else b',"unique":%b' % task.uniqueness.encode(),
        b"" if task.expires_at is None else b',"expires_at":%b' % format_time(task.expires_at),
        b"" if task.schedule is None else b',"schedule":%b' % _encode(task.schedule),
        b"" if task.scheduled_for is None else b',"scheduled_for":%b' % format_time(task.scheduled_for),
        b"" if task.last_error is None else b',"error_group":"%b"' % _group(task.handler, task.last_error),
    ])  # fmt: skip


def _group(handler: str, error: TaskError) -> bytes:
    return error_group(handler, error.type, error.message)[0].encode()


class AcceptedWriter:
    """Writes tasks that were accepted together as `encode_task` does: what many have in common is written once."""

    def __init__(self) -> None:
        self._around: dict[tuple[object, ...], tuple[bytes, bytes]] = {}

    def encode(self, task: Task) -> bytes:
        """A task that has only just been accepted: all other fields are those of every new task."""
        if not _plain(task):
            return encode_task(task)
        key = (task.handler, task.queue, task.priority, task.max_retries, task.timeout, task.run_at,
               task.created_at)  # fmt: skip
        id = _encode(task.id)
        around = self._around.get(key)
        if around is None:
            whole = encode_task(task)
            begin = whole.index(_PAYLOAD, len(_ID) + len(id)) + len(_PAYLOAD)
            around = whole[len(_ID) + len(id) : begin], whole[begin + len(task.payload) :]
            self._around[key] = around
        return b"%b%b%b%b%b" % (_ID, id, around[0], task.payload, around[1])


def encode_tasks(tasks: Iterable[Task]) -> bytes:
    """An array of tasks."""
    return b"[%b]" % b",".join(map(encode_task, tasks))


def encode_attempts(attempts: Iterable[Attempt]) -> bytes:
    """An array of attempts."""
    return b"[%b]" % b",".join(map(_encode_attempt, attempts))


def _encode_attempt(attempt: Attempt) -> bytes:
    return b'{"attempt":%d,"outcome":%b,"started_at":%b,"ended_at":%b,"worker":%b,"error":%b}' % (
        attempt.attempt,
        _encode(attempt.outcome),
        b"null" if attempt.started_at is None else format_time(attempt.started_at),
        format_time(attempt.ended_at),
        b"null" if attempt.worker is None else encode_text(attempt.worker),
        b"null" if attempt.error is None else _encode_error(attempt.error),
    )


def encode_text(text: str) -> bytes:
    """A JSON string, also of text from outside that cannot be UTF-8: a lone surrogate becomes a question mark."""
    try:
        return _encode(text)
    except UnicodeEncodeError:
        return _encode(text.encode(errors="replace").decode())


def encode_view(view: Struct | Sequence[Struct]) -> bytes:
    """The JSON of one of these structs."""
    return _encode(view)


def _encode_error(error: TaskError) -> bytes:
    return b'{"type":%b,"message":%b,"traceback":%b,"attempt":%d,"at":%b}' % (
        encode_text(error.type),
        encode_text(error.message),
        b"null" if error.traceback is None else encode_text(error.traceback),
        error.attempt,
        format_time(error.at),
    )
