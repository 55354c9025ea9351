"""The table of a task's life, and what each outcome of a run makes of a task."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobpipe.core.errors import AlreadyFinished, NotFinished, NotRetryable
from jobpipe.core.lifecycle import (
    ALLOWED,
    HANDLER_MISSING,
    TIMED_OUT,
    WORKER_LOST,
    Event,
    Kind,
    Outcome,
    Policy,
    Transition,
    decide,
    refusal,
)
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import FINISHED, Status, Task, TaskError

NOW = 1_700_000_000_000
POLICY = Policy(retry=RetryPolicy(base=1.0, jitter=0.0, cap=60.0), max_lost=3)
OLD_ERROR = TaskError(type="OldError", message="before", traceback=None, attempt=1, at=NOW - 9)


def zero() -> float:
    return 0.0


def task(
    *,
    status: Status = Status.RUNNING,
    failures: int = 0,
    lost: int = 0,
    max_retries: int = 3,
    cancel_requested: bool = False,
) -> Task:
    attempts = failures + lost + (status is not Status.QUEUED)
    return Task(
        7, "t", "h", "q", b"null", 0, status, attempts, failures, lost, max_retries, None, NOW - 500, NOW - 900,
        started_at=NOW - 100, cancel_requested=cancel_requested, worker="w", last_error=OLD_ERROR,
    )  # fmt: skip


def settled(subject: Task, outcome: Outcome, policy: Policy = POLICY) -> Transition:
    return decide(subject, outcome, NOW, policy, zero)


Q, R, D, F, C = Status.QUEUED, Status.RUNNING, Status.DONE, Status.FAILED, Status.CANCELLED
TABLE = {
    Event.CLAIM: {Q: True, R: False, D: False, F: False, C: False},
    Event.SETTLE: {Q: False, R: True, D: False, F: False, C: False},
    Event.CANCEL: {Q: True, R: True, D: False, F: False, C: False},
    Event.RETRY: {Q: False, R: False, D: False, F: True, C: True},
    Event.DELETE: {Q: False, R: False, D: True, F: True, C: True},
}


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("event", Event)
def test_every_event_is_allowed_in_exactly_the_statuses_of_the_table(event: Event, status: Status) -> None:
    assert (status in ALLOWED[event]) is TABLE[event][status]


def test_the_table_knows_every_event_and_no_other() -> None:
    assert set(ALLOWED) == set(Event) == set(TABLE)
    assert frozenset({D, F, C}) == FINISHED


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize(
    ("event", "error"),
    [(Event.CANCEL, AlreadyFinished), (Event.RETRY, NotRetryable), (Event.DELETE, NotFinished)],
)
def test_a_refusal_has_its_own_code_and_names_task_and_status(
    event: Event, error: type[Exception], status: Status
) -> None:
    no = refusal(event, "mail:7", status)
    if TABLE[event][status]:
        assert no is None
    else:
        assert type(no) is error
        assert "mail:7" in str(no)
        assert str(status) in str(no)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("status", [Q, D, F, C])
def test_a_task_that_does_not_run_has_nothing_to_settle(status: Status, kind: Kind) -> None:
    with pytest.raises(ValueError, match="no run to settle"):
        settled(task(status=status, cancel_requested=True), Outcome(kind))


def test_a_cancelled_run_that_nobody_asked_to_cancel_is_illegal() -> None:
    with pytest.raises(ValueError, match="nobody asked"):
        settled(task(), Outcome(Kind.CANCELLED))


BOUNDS = [
    (failures, lost, max_retries)
    for max_retries in (0, 1, 3, 1000)
    for failures in sorted({0, max(0, max_retries - 1), max_retries})
    for lost in (0, 1, 2)
]


@pytest.mark.parametrize(("failures", "lost", "max_retries"), BOUNDS)
@pytest.mark.parametrize("cancel_requested", [False, True])
@pytest.mark.parametrize("retryable", [False, True])
@pytest.mark.parametrize("kind", Kind)
def test_each_outcome_leads_where_the_rules_say_at_every_bound(
    kind: Kind, retryable: bool, cancel_requested: bool, failures: int, lost: int, max_retries: int
) -> None:
    subject = task(failures=failures, lost=lost, max_retries=max_retries, cancel_requested=cancel_requested)
    if kind is Kind.CANCELLED and not cancel_requested:
        return
    to = settled(subject, Outcome(kind, retryable=retryable))
    expected = {
        Kind.DONE: (D, failures, lost, subject.attempts),
        Kind.CANCELLED: (C, failures, lost, subject.attempts),
        Kind.RELEASED: (Q, failures, lost, subject.attempts - 1),
        Kind.LOST: (F if lost + 1 >= 3 else Q, failures, lost + 1, subject.attempts),
    }
    for failing in (Kind.FAILED, Kind.TIMED_OUT):
        ends = not retryable or failures + 1 > max_retries
        expected[failing] = (F if ends else Q, failures + 1, lost, subject.attempts)
    if cancel_requested and kind is not Kind.DONE:
        expected[kind] = (C, failures, lost, subject.attempts)
    assert (to.status, to.failures, to.lost, to.attempts) == expected[kind]
    assert to.kind is kind
    plus_one = to.status in (D, C)
    assert to.attempts == to.failures + to.lost + plus_one
    assert to.finished_at == (None if to.status is Q else NOW)


def test_done_keeps_its_result_and_the_last_error() -> None:
    to = settled(task(), Outcome(Kind.DONE, result=b'{"n": 1.10}'))
    assert (to.result, to.error, to.run_at) == (b'{"n": 1.10}', None, NOW - 500)


def test_done_after_a_cancel_request_stays_done_with_its_result() -> None:
    to = settled(task(cancel_requested=True), Outcome(Kind.DONE, result=b"1"))
    assert (to.status, to.result) == (D, b"1")


def test_only_done_leaves_a_result() -> None:
    for kind in (Kind.FAILED, Kind.TIMED_OUT, Kind.RELEASED, Kind.LOST):
        assert settled(task(), Outcome(kind, result=b"1")).result is None
    assert settled(task(cancel_requested=True), Outcome(Kind.CANCELLED, result=b"1")).result is None


@pytest.mark.parametrize("kind", [Kind.DONE, Kind.RELEASED])
def test_a_run_without_an_error_leaves_none(kind: Kind) -> None:
    assert settled(task(), Outcome(kind)).error is None


def test_a_cancelled_run_leaves_no_error_whatever_it_came_to() -> None:
    for kind in (Kind.FAILED, Kind.TIMED_OUT, Kind.LOST, Kind.RELEASED, Kind.CANCELLED):
        assert settled(task(cancel_requested=True), Outcome(kind, error_type="X", message="m")).error is None


def test_a_failure_tells_its_type_message_traceback_attempt_and_time() -> None:
    subject = task(failures=1, lost=1)
    to = settled(subject, Outcome(Kind.FAILED, error_type="KeyError", message="'x'", traceback="tb"))
    assert to.error == TaskError(type="KeyError", message="'x'", traceback="tb", attempt=3, at=NOW)


@pytest.mark.parametrize(
    ("kind", "given", "type_"),
    [
        (Kind.FAILED, None, "failed"),
        (Kind.TIMED_OUT, None, TIMED_OUT),
        (Kind.TIMED_OUT, "SlowError", "SlowError"),
        (Kind.LOST, None, WORKER_LOST),
        (Kind.LOST, "Liar", WORKER_LOST),
    ],
)
def test_an_error_always_has_a_type_and_lost_is_always_worker_lost(
    kind: Kind, given: str | None, type_: str
) -> None:
    error = settled(task(), Outcome(kind, error_type=given)).error
    assert error is not None
    assert error.type == type_


def test_the_last_loss_ends_the_task_with_worker_lost() -> None:
    to = settled(task(lost=2), Outcome(Kind.LOST))
    assert to.status is F
    assert to.error is not None
    assert to.error.type == "worker_lost"


@pytest.mark.parametrize("max_lost", [2, 3, 10])
def test_a_task_survives_all_but_the_last_loss_that_the_policy_allows(max_lost: int) -> None:
    policy = Policy(retry=POLICY.retry, max_lost=max_lost)
    assert settled(task(lost=max_lost - 2), Outcome(Kind.LOST), policy).status is Q
    assert settled(task(lost=max_lost - 1), Outcome(Kind.LOST), policy).status is F


def test_losses_use_up_no_retry_and_failures_no_loss() -> None:
    assert settled(task(failures=3, lost=1), Outcome(Kind.LOST)).status is Q
    assert settled(task(failures=2, lost=2), Outcome(Kind.FAILED)).status is Q


@pytest.mark.parametrize(("failures", "delay_ms"), [(0, 1000), (1, 2000), (2, 4000)])
def test_a_failure_waits_for_the_backoff_of_its_retry_number(failures: int, delay_ms: int) -> None:
    assert settled(task(failures=failures), Outcome(Kind.FAILED)).run_at == NOW + delay_ms


@pytest.mark.parametrize(("lost", "delay_ms"), [(0, 0), (1, 1000), (2, 2000)])
def test_the_first_loss_waits_for_nothing_and_the_next_for_the_backoff(lost: int, delay_ms: int) -> None:
    policy = Policy(retry=POLICY.retry, max_lost=10)
    assert settled(task(lost=lost), Outcome(Kind.LOST), policy).run_at == NOW + delay_ms


@pytest.mark.parametrize(("retry_in", "delay_ms"), [(0.0, 0), (0.25, 250), (86400.0, 86_400_000)])
def test_a_handlers_own_delay_replaces_the_backoff(retry_in: float, delay_ms: int) -> None:
    assert settled(task(failures=2), Outcome(Kind.FAILED, retry_in=retry_in)).run_at == NOW + delay_ms


def test_a_handlers_own_delay_buys_no_extra_retry() -> None:
    assert settled(task(failures=3), Outcome(Kind.FAILED, retry_in=1.0)).status is F
    assert settled(task(), Outcome(Kind.FAILED, retry_in=1.0, retryable=False)).status is F


def test_a_release_keeps_the_place_of_its_task() -> None:
    subject = task(failures=2)
    assert settled(subject, Outcome(Kind.RELEASED)).run_at == subject.run_at < NOW


def test_deciding_changes_nothing() -> None:
    subject = task(failures=1)
    before = repr(subject)
    settled(subject, Outcome(Kind.FAILED))
    assert repr(subject) == before


@pytest.mark.parametrize("status", Status)
def test_a_task_knows_whether_it_is_finished(status: Status) -> None:
    assert task(status=status).finished is (status in (D, F, C))


# --- handlers that a worker lacks ---


def missing(subject: Task, now: int, wait: float = 3600.0) -> Transition:
    return decide(subject, HANDLER_MISSING, now, Policy(handler_wait=wait), lambda: 0.5)


def claimed_again(subject: Task, to: Transition) -> Task:
    return replace(subject, run_at=to.run_at, last_error=to.error, attempts=to.attempts + 1)


def test_a_task_whose_handler_is_missing_waits_in_growing_pauses_and_pays_no_attempt() -> None:
    subject, now, pauses = task(failures=1), NOW, []
    for _ in range(8):
        to = missing(subject, now)
        assert (to.status, to.attempts, to.failures, to.lost) == (Q, 1, 1, 0)
        assert not to.is_attempt
        assert not to.keeps_place
        assert to.error is not None
        assert (to.error.type, "'h'" in to.error.message) == ("unknown_handler", True)
        pauses.append((to.run_at - now) / 1000)
        subject, now = claimed_again(subject, to), to.run_at + 3
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize("late_ms", [0, 400, 7_000])
def test_it_fails_once_it_has_waited_so_long_since_it_was_first_due(late_ms: int) -> None:
    subject = task()
    first_due, now = subject.run_at, subject.run_at + late_ms
    while (to := missing(subject, now, wait=10)).status is Q:
        assert now - first_due < 10_000
        subject, now = claimed_again(subject, to), to.run_at
    assert now - first_due >= 10_000
    assert (to.kind, to.status, to.attempts, to.attempt) == (Kind.FAILED, F, 0, 1)
    assert to.error is not None
    assert (to.error.type, to.error.since) == ("unknown_handler", None)


def test_without_a_wait_it_fails_at_once_and_retried_by_hand_it_waits_anew() -> None:
    to = missing(task(), NOW, wait=0)
    assert to.status is F
    later = NOW + 10**9
    again = missing(replace(task(), run_at=later, last_error=to.error), later + 5)
    assert (again.status, again.run_at) == (Q, later + 1005)
    assert missing(task(), NOW + 10**12, wait=float("inf")).status is Q


def test_a_task_to_be_cancelled_is_cancelled_whoever_lacks_its_handler() -> None:
    assert missing(task(cancel_requested=True), NOW).status is C
