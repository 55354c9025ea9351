"""Metrics and charts are counted from the same value: they agree whatever becomes of runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from jobpipe.core.lifecycle import Kind, Outcome, Policy, Transition, decide
from jobpipe.core.task import NewTask, Status, Task, accepted
from jobpipe.engine.minutes import Minute
from jobpipe.engine.tally import Tally
from jobpipe.runtime.clock import ManualClock

NOW = 60_000
RUNNING = replace(
    accepted(NewTask("a", "h"), 1, 0, 0), status=Status.RUNNING, attempts=1, started_at=NOW - 50, worker="w"
)
CASES: dict[str, tuple[Task, Outcome]] = {
    "done": (RUNNING, Outcome(Kind.DONE)),
    "failed, tried again": (RUNNING, Outcome(Kind.FAILED)),
    "failed": (RUNNING, Outcome(Kind.FAILED, retryable=False)),
    "timed out": (replace(RUNNING, max_retries=0), Outcome(Kind.TIMED_OUT)),
    "lost, queued again": (RUNNING, Outcome(Kind.LOST)),
    "lost for good": (replace(RUNNING, lost=2), Outcome(Kind.LOST)),
    "released": (RUNNING, Outcome(Kind.RELEASED)),
    "released, cancelling": (replace(RUNNING, cancel_requested=True), Outcome(Kind.RELEASED)),
    "lost, cancelling": (replace(RUNNING, cancel_requested=True), Outcome(Kind.LOST)),
}


def counted(act: Callable[[Tally, Minute], None]) -> tuple[Tally, Minute]:
    tally, minute = Tally(ManualClock(NOW)), Minute(1)
    act(tally, minute)
    return tally, minute


@pytest.mark.parametrize("case", CASES)
def test_they_agree_on_each_end_of_a_run(case: str) -> None:
    task, outcome = CASES[case]
    to: Transition = decide(task, outcome, NOW, Policy(), lambda: 0.5)

    def end(tally: Tally, minute: Minute) -> None:
        tally.settled([(task, to)])
        minute.ended([(task, to)], NOW)

    tally, minute = counted(end)
    assert (tally.retried, tally.rescued) == (minute.retried, minute.rescued)
    assert sum(tally.finished.values()) == minute.done + minute.failed + minute.cancelled
    assert tally.finished.get(("default", "h", "cancelled"), 0) == minute.cancelled
    assert sum(sum(one.counts) for one in tally.runs.values()) == sum(minute.runs.counts)


def test_a_released_run_whose_cancelling_was_asked_for_ends_as_cancelled() -> None:
    task, outcome = CASES["released, cancelling"]
    assert decide(task, outcome, NOW, Policy(), lambda: 0.5).finished_as == "cancelled"


def test_they_agree_on_what_people_do() -> None:
    def steer(tally: Tally, minute: Minute) -> None:
        tasks = [replace(RUNNING, status=Status.QUEUED), replace(RUNNING, status=Status.CANCELLED)]
        tally.steered(tasks)
        minute.steered(tasks)

    tally, minute = counted(steer)
    assert tally.retried == minute.retried == 1
    assert sum(tally.finished.values()) == minute.cancelled == 1
