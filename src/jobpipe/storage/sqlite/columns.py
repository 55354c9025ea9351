"""The columns of a task in the file, by name: each is a field of core.task.Task, or one of the few below.

So a new field of Task and NewTask, with the schema's step that adds its column, is accepted, read, and moved between
stores without another word in this engine. Rows that go in are values whose fields name their columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from msgspec import Struct

from jobpipe.core.task import Attempt, NewTask, Status, Task

TASK = Task.__struct_fields__
READ = (*TASK, "lease_id", "settled")
"""Of a whole row: the task, and what is kept of its latest claim."""
MOVED = (*TASK, "error_group")
"""What another store takes over."""
ATTEMPT = Attempt.__struct_fields__
BYTES = ("payload", "result")
"""They travel beside the JSON."""

GIVEN = ("seq", "created_at", *(name for name in NewTask.__struct_fields__ if name not in BYTES))
"""What is known of a task when it is accepted, beside its payload; all else begins as the schema or INSERT says."""
OWN = ("seq", "id", "digest")
"""What each task of a batch has for itself; the digest only if it came with an Idempotency-Key."""
ALIKE = tuple(name for name in GIVEN if name not in OWN)
"""What many tasks of a batch have in common."""
PLAIN = GIVEN[: GIVEN.index("traceparent") + 1]
"""What a plain task has of it (core.task.plain)."""


def given(tasks: Sequence[Task], plain: bool) -> list[tuple[Any, ...]]:
    """The values of GIVEN or of PLAIN, of each. Those of PLAIN are written out: an attrgetter takes five times that."""
    if not plain:
        return list(map(attrgetter(*GIVEN), tasks))
    return [
        (
            task.seq, task.created_at, task.id, task.handler, task.queue, task.priority, task.max_retries,
            task.run_at, task.timeout, task.traceparent,
        )
        for task in tasks
    ]  # fmt: skip


def alike(tasks: Sequence[Task], plain: bool) -> list[tuple[Any, ...]]:
    """The values of ALIKE, of each; for plain tasks those that come first, the others are None."""
    if not plain:
        return list(map(attrgetter(*ALIKE), tasks))
    return [
        (
            task.created_at, task.handler, task.queue, task.priority, task.max_retries, task.run_at, task.timeout,
            task.traceparent,
        )
        for task in tasks
    ]  # fmt: skip


AT = {name: place for place, name in enumerate(READ)}
"""Where a column stands in a row that was read."""


class Claimed(Struct, array_like=True, gc=False):
    """A row of CLAIM."""

    seq: int
    started_at: int | None
    worker: str | None
    lease_id: str
    lease_ms: int | None
    boot: str | None


class Succeeded(Struct, array_like=True, gc=False):
    """A row of SETTLE_DONE."""

    seq: int
    lease_id: str
    finished_at: int | None
    result_at: int
    result_len: int | None
    cancel: bool


class Finished(Struct, array_like=True, gc=False):
    """A row of FINISH."""

    seq: int
    lease_id: str
    started_at: int | None
    worker: str | None
    finished_at: int | None
    result_at: int
    result_len: int | None


class Settled(Struct, array_like=True, gc=False):
    """A row of SETTLE: `lease_id` and `cancel` are the fence. The row keeps the lease, so that a note of its claim is
    known to be an old one. `settled`: the status that the holder settled it with, None where somebody else did.
    """

    seq: int
    lease_id: str
    status: int
    run_at: int
    attempts: int
    failures: int
    lost: int
    finished_at: int | None
    result_at: int
    result_len: int | None
    error: str | None
    error_group: str | None
    settled: int | None
    cancel: bool


class Attempted(Struct, array_like=True, gc=False):
    """A row of KEEP_ATTEMPTS: the unsuccessful end of a run."""

    seq: int
    attempt: int
    outcome: str
    ended_at: int
    error: str | None


def names(columns: Iterable[str]) -> str:
    """The columns as SQL lists them."""
    return ", ".join(columns)


def values(row: type[Struct]) -> str:
    """The fields of such a row, taken out of its JSON by their names."""
    return ", ".join(f"value->>{place} AS {name}" for place, name in enumerate(row.__struct_fields__))


def literal(value: Status | bool | int | None) -> str:
    """A constant of a rule, as SQL has it."""
    if isinstance(value, Status):
        return str(list(Status).index(value))
    return "NULL" if value is None else str(int(value))


def assigned(changes: Mapping[str, Any]) -> str:
    """What a rule of core changes, for UPDATE."""
    return ", ".join(f"{name} = {literal(value)}" for name, value in changes.items())
