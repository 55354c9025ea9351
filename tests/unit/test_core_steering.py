"""Steering and admission are rules of core: what engines write is decided here."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobpipe.core.admission import Limits, fit_surely, judge
from jobpipe.core.errors import QueueFull, TaskExists, TooManyQueues
from jobpipe.core.lifecycle import Event, claimed
from jobpipe.core.once import Once
from jobpipe.core.steering import rises, steer
from jobpipe.core.task import NewTask, Status, Task, accepted
from jobpipe.core.unique import Unique, text_of

QUEUED = accepted(NewTask("a", "h"), 1, 5, 5)
RUNNING = claimed(QUEUED, 6, "w")
FAILED = replace(RUNNING, status=Status.FAILED, failures=1, finished_at=7, result=b"1", cancel_requested=True)


class Counts:
    def __init__(self, **queued: int) -> None:
        self.queues = queued

    bounds_keys = False

    def key_room(self, queue: str, key: str | None) -> int | None:
        return None

    def queued(self, queue: str) -> int:
        return self.queues.get(queue, 0)


def steered(event: Event, *tasks: Task) -> tuple[list[object], dict[tuple[str, int, Status], int]]:
    answers, moves = steer(event, [task.id for task in tasks], {task.id: task for task in tasks}, 9)
    return list(answers), {key: n for key, n in rises(moves).items() if n}


def test_a_retry_by_hand_clears_the_accounting_and_the_run() -> None:
    (after,), counts = steered(Event.RETRY, FAILED)
    assert after == replace(QUEUED, run_at=9)
    assert counts == {("default", 0, Status.FAILED): -1, ("default", 0, Status.QUEUED): 1}


def test_a_cancel_ends_what_waits_and_marks_what_runs() -> None:
    assert steered(Event.CANCEL, QUEUED)[0] == [replace(QUEUED, status=Status.CANCELLED, finished_at=9)]
    assert steered(Event.CANCEL, RUNNING) == ([replace(RUNNING, cancel_requested=True)], {})


def test_an_id_that_comes_twice_is_met_as_the_first_left_it() -> None:
    answers, moves = steer(Event.DELETE, ["a", "a"], {"a": FAILED}, 9)
    assert [getattr(answer, "code", "task") for answer in answers] == ["task", "not_found"]
    assert moves == [(FAILED, None)]


def test_only_what_waits_is_claimed() -> None:
    with pytest.raises(ValueError, match="running"):
        claimed(RUNNING, 9, "w")


def test_admission_is_decided_in_order() -> None:
    limits, counts = Limits(capacity=2, max_queues=2), Counts(q=1)
    new = [NewTask(id_, "h", queue=queue) for id_, queue in zip("abacd", "qqqrs", strict=True)]
    once = Once({}, {}, {}, 0)
    answers = judge(new, once, limits, counts, lambda one: accepted(one, len(once.accepted), 0, 0))
    assert [type(answer) for answer in answers] == [Task, QueueFull, TaskExists, Task, TooManyQueues]
    assert [task.id for task in once.accepted.values()] == ["a", "c"]
    assert not fit_surely(new, limits, counts)
    assert fit_surely(new[:1], limits, counts)
    assert not fit_surely([replace(new[0], uniqueness=text_of(Unique("k")))], limits, counts)
    assert fit_surely([replace(new[0], digest="d")], limits, counts)
