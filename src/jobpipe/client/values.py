"""What a client gives and gets: values of Python, with times as aware datetimes (UTC) and JSON decoded.

`Task` is a stored task as the server showed it at that moment; core's Task, which holds JSON as bytes and times as
milliseconds, stays inside. Fields that a newer server adds are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta, Raw, Struct

from jobpipe.core.errors import Invalid, JobpipeError
from jobpipe.core.lifecycle import Kind
from jobpipe.core.plain import plain
from jobpipe.core.task import FINISHED, Status
from jobpipe.core.unique import Unique, UniqueRules

Time = Annotated[datetime, Meta(tz=True)]


class TaskOptions(TypedDict, total=False):
    """How a task is to be run. What is left out or None is the server's to choose.

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


class OneTaskOptions(TaskOptions, total=False):
    """`idempotency_key` is the sender's own name of this request: sent again, by whichever process, it makes no second
    task, and is answered with the first.
    """

    idempotency_key: str | None


class Changes(TypedDict, total=False):
    """What is to change of a waiting task. None clears; `delay` 0 is now."""

    payload: Any
    priority: int | None
    delay: float | None
    run_at: datetime | None
    max_retries: int | None
    timeout: float | None
    expires: float | datetime | None


class NewTask(TaskOptions, total=False):
    """A task to enqueue. `payload` is whatever has a JSON form: plain values, dataclasses, structs, pydantic models."""

    handler: str | None
    payload: Any


class OneTask(NewTask, OneTaskOptions, total=False):
    """A task to enqueue by itself."""


class Filters(TypedDict, total=False):
    """Which tasks: all that are given must hold. Times need a time zone."""

    status: Status | str | None
    queue: str | None
    handler: str | None
    error_type: str | None
    error_group: str | None
    id_prefix: str | None
    created_after: datetime | None
    created_before: datetime | None
    key: str | None
    schedule: str | None


class TaskError(Struct, frozen=True):
    """Why the latest unsuccessful attempt did not succeed."""

    type: str
    message: str
    traceback: str | None
    attempt: int
    at: Time


class Task(Struct, frozen=True, gc=False):
    """A task. `attempts = failures + lost`, plus 1 for a run that is under way, done or cancelled.

    `deduplicated` says that it stood for the task that was to be enqueued, `replaced` that it was changed for it. To a
    key that may only enqueue no more is told of such a task than its id and status; the rest is as was asked for.
    """

    id: str
    handler: str
    queue: str
    payload: Any
    priority: int
    status: Status
    attempts: int
    failures: int
    lost: int
    max_retries: int
    timeout: float | None
    run_at: Time
    created_at: Time
    started_at: Time | None = None
    finished_at: Time | None = None
    cancel_requested: bool = False
    worker: str | None = None
    result: Any = None
    last_error: TaskError | None = None
    key: str | None = None
    unique: Unique | None = None
    expires_at: Time | None = None
    deduplicated: bool = False
    replaced: bool = False
    schedule: str | None = None
    scheduled_for: Time | None = None

    @property
    def finished(self) -> bool:
        """Whether the task has come to its end."""
        return self.status in FINISHED


class TaskForm(Task, frozen=True, gc=False):
    """A task whose JSON is not yet looked into."""

    payload: Raw
    result: Raw = Raw(b"null")

    def task(self) -> Task:
        """The task with its JSON decoded."""
        fields = {name: getattr(self, name) for name in Task.__struct_fields__}
        return Task(**fields | {"payload": decoded(self.payload), "result": decoded(self.result)})


class LeaseForm(TaskForm, frozen=True, kw_only=True, gc=False):
    """A task as `POST /lease` gives it."""

    lease_id: str
    lease_until: Time | None
    alone: bool = False
    traceparent: str | None = None

    def lease(self) -> Lease:
        """The lease with its task decoded."""
        return Lease(self.task(), self.lease_id, self.lease_until, self.alone, self.traceparent)


class Refused(Struct, frozen=True):
    """A task of many that was not enqueued: its place among them, counted from 0, and why."""

    index: int
    error: JobpipeError


class Enqueued(Struct, frozen=True):
    """What became of many tasks: how many are enqueued, how many not, and of the latter the first 10,000."""

    count: int
    refusals: int
    refused: list[Refused]


class Lease(Struct, frozen=True):
    """A task to run now, and the proof of it: `lease_id` is named when it is settled or extended.

    `lease_until` is None for one that does not end. `alone` asks that no other task run in the same process.
    `traceparent` is the enqueuer's (W3C Trace Context).
    """

    task: Task
    lease_id: str
    lease_until: datetime | None
    alone: bool = False
    traceparent: str | None = None


class Settle(Struct, frozen=True):
    """What became of a leased task: `outcome` done with its `result`, or failed with the error's parts.

    `retry_in` is seconds, None for the server's backoff.
    """

    id: str
    lease_id: str
    outcome: Kind
    result: Any = None
    error_type: str = "Error"
    message: str = ""
    traceback: str | None = None
    retryable: bool = True
    retry_in: float | None = None


class Settled(Struct, frozen=True):
    """The answer to one settle: the task's status now, or with `accepted` false the code of the reason.

    `id` is None where the server could not read it.
    """

    id: str | None
    accepted: bool
    status: Status | None = None
    code: str | None = None


class Extended(Struct, frozen=True):
    """The answer for one lease: until when it holds now, or with `extended` false the code of the reason."""

    id: str
    extended: bool
    lease_until: Time | None = None
    cancel_requested: bool = False
    code: str | None = None


def decoded(value: Raw) -> Any:
    """The JSON value.

    Other programs may enqueue numbers that few decoders take: `1e999` becomes infinity, and an integer too long for
    Python's int a Decimal. One such payload must not hide the other tasks of a listing.
    """
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        import json

        return json.loads(bytes(value), parse_int=_integer)


def _integer(digits: str) -> int | Decimal:
    try:
        return int(digits)
    except ValueError:
        return Decimal(digits)


def encoded(value: Any, field: str) -> bytes:
    """The JSON form of a payload or result. Raises Invalid when it has none."""
    try:
        return _encode(plain(value))
    except Exception as error:
        # A value's own code (a property, model_dump) may raise anything.
        raise Invalid(f"the {field} has no JSON form: {error}", field=field) from error


_encode = msgspec.json.Encoder().encode


def with_times(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with their times as text; what is no datetime is JSON already, or seconds. Raises Invalid."""
    return {
        name: time_text(value, name) if isinstance(value, datetime) else value
        for name, value in fields.items()
    }


def time_text(moment: datetime, field: str) -> str:
    """The time as RFC 3339 in UTC. Raises Invalid for one without a time zone."""
    if moment.utcoffset() is None:
        raise Invalid("a time needs a time zone: datetime.now(UTC), not datetime.now()", field=field)
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
