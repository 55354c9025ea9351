"""Unique keys as values: how long one lives, and what a second task is told."""

from __future__ import annotations

from typing import Any

import pytest

from jobpipe.core.errors import NotUnique
from jobpipe.core.task import NewTask, Status, Task, accepted
from jobpipe.core.unique import (
    Found,
    Known,
    OnConflict,
    Unique,
    claim_frees,
    meet,
    retry_takes,
    text_of,
    unique_of,
)

T = 1_700_000_000_000


def new(unique: Unique | None, **fields: Any) -> NewTask:
    return NewTask("second", "h", uniqueness=None if unique is None else text_of(unique), **fields)


def living(unique: Unique, status: Status = Status.QUEUED) -> Task:
    task = accepted(new(unique, payload=b"1", priority=5), 1, T, T)
    return Task(**{name: getattr(task, name) for name in Task.__struct_fields__} | {"status": status})


@pytest.mark.parametrize(
    "unique",
    [Unique("k"), Unique("k", "start"), Unique("k", 1.5), Unique("k", 5.0, OnConflict.REPLACE, within=60.0)],
)
def test_it_is_read_back_as_it_was_written(unique: Unique) -> None:
    assert unique_of(new(unique)) == unique
    assert unique_of(new(None)) is None


def test_what_frees_a_key() -> None:
    end, start, seconds = living(Unique("k")), living(Unique("k", "start")), living(Unique("k", 2.0))
    assert [claim_frees(task) for task in (end, start, seconds)] == [False, True, False]
    assert [retry_takes(task, T + 1999) for task in (end, start, seconds)] == [True, True, True]
    assert [retry_takes(task, T + 2000) for task in (end, start, seconds)] == [True, True, False]
    assert Unique("k", 2.0).lives_until(T) == T + 2000


def test_a_second_task_is_told_of_the_first_or_refused() -> None:
    first = living(Unique("k"))
    assert meet(new(Unique("k")), first, T) == Known(first, Found.DEDUPLICATED)
    assert isinstance(meet(new(Unique("k", on_conflict=OnConflict.REJECT)), first, T), NotUnique)


def test_replacing_takes_payload_priority_time_and_expiry_and_leaves_the_rest() -> None:
    first, rule = living(Unique("k")), Unique("k", on_conflict=OnConflict.REPLACE)
    answer = meet(new(rule, payload=b"2", run_at=T + 9000, expires_at=T + 10_000), first, T + 50)
    assert isinstance(answer, Known)
    assert answer.found is Found.REPLACED
    task = answer.task
    assert (task.payload, task.priority, task.run_at, task.expires_at) == (b"2", 0, T + 9000, T + 10_000)
    assert (task.id, task.seq, task.created_at, task.uniqueness) == (
        first.id, first.seq, first.created_at, first.uniqueness,
    )  # fmt: skip


def test_only_a_queued_one_is_replaced() -> None:
    rule = Unique("k", on_conflict=OnConflict.REPLACE)
    for status in (Status.RUNNING, Status.DONE, Status.FAILED):
        first = living(Unique("k", 60.0), status)
        assert meet(new(rule), first, T) == Known(first, Found.DEDUPLICATED)


def test_a_debounced_task_is_put_off_so_long_at_most() -> None:
    rule = Unique("k", "start", OnConflict.REPLACE, within=60.0)
    first = living(rule)
    for later, expected in ((30_000, 35_000), (58_000, 60_000), (70_000, 60_000)):
        answer = meet(new(rule, run_at=T + later + 5000), first, T + later)
        assert isinstance(answer, Known)
        assert answer.task.run_at == T + expected
