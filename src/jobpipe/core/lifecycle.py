"""The rules of a task's life: which event is allowed in which status, and what an outcome of a run makes of a task.

Retrying, failing, releasing and rescuing are values here, not methods elsewhere: `decide` turns an outcome into a
Transition, and a storage engine writes it if the claim still holds. The rule exists once, for every engine.

            claim                    done
  queued ----------> running -----------------------> done
    ^  |               | failed, timed_out, lost
    |  | cancel        +--- retries left --> queued (run_at later)
    |  v               +--- none left -----> failed
    | cancelled <------+--- any but done, once cancelling was requested
    |                  +--- released ------> queued (the attempt is taken back), after a pause if the worker has no
    |                                        such handler; failed when that lasted too long
    +--- retry by hand: from failed and cancelled
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from jobpipe.core.errors import AlreadyFinished, JobpipeError, NotFinished, NotRetryable
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.rules import MAX_HOLD_S
from jobpipe.core.shape import error_group
from jobpipe.core.task import FINISHED, Claim, Status, Task, TaskError

WORKER_LOST = "worker_lost"
TIMED_OUT = "timed_out"
UNKNOWN_HANDLER = "unknown_handler"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1, 30
"""Between two workers that cannot run a task; each pause is twice the one before."""


class Event(StrEnum):
    """What can be asked of a task in a given status."""

    CLAIM = "claim"
    SETTLE = "settle"
    CANCEL = "cancel"
    RETRY = "retry"
    DELETE = "delete"


ALLOWED: dict[Event, frozenset[Status]] = {
    Event.CLAIM: frozenset({Status.QUEUED}),
    Event.SETTLE: frozenset({Status.RUNNING}),
    Event.CANCEL: frozenset({Status.QUEUED, Status.RUNNING}),
    Event.RETRY: frozenset({Status.FAILED, Status.CANCELLED}),
    Event.DELETE: FINISHED,
}

FREED: dict[str, Any] = {"cancel_requested": False, "started_at": None, "worker": None}
"""What a task that waits again knows no more of: its run."""

_REFUSED: dict[Event, type[JobpipeError]] = {
    Event.CANCEL: AlreadyFinished,
    Event.RETRY: NotRetryable,
    Event.DELETE: NotFinished,
}


def refusal(event: Event, task_id: str, status: Status) -> JobpipeError | None:
    """Why a person's `event` (cancel, retry, delete) is not allowed in `status`; None when it is."""
    if status in ALLOWED[event]:
        return None
    return _REFUSED[event](f"task '{task_id}' is {status}")


class Kind(StrEnum):
    """What became of a run."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"


Scope = Literal["key", "queue"]


class Outcome(Struct, frozen=True, gc=False):
    """What became of a run, as the one who ran it (or found it lost) tells it.

    `result` (JSON bytes) belongs to done. `error_type`, `message` and `traceback` to failed, timed_out and lost; a
    released run has the type UNKNOWN_HANDLER when its worker cannot run such tasks.
    `retryable` and `retry_in` (seconds, None for the policy's backoff) carry a handler's own wish. A released run with
    `retry_in` waits for so long, and with `hold` nothing else of its key (without one: of its queue) starts meanwhile.
    """

    kind: Kind
    result: bytes | None = None
    error_type: str | None = None
    message: str = ""
    traceback: str | None = None
    retryable: bool = True
    retry_in: float | None = None
    hold: Scope | None = None


End = tuple[Claim, Outcome]
"""A run that came to its outcome."""


RELEASED = Outcome(Kind.RELEASED)
HANDLER_MISSING = Outcome(Kind.RELEASED, error_type=UNKNOWN_HANDLER)
"""Released by a worker that cannot run such tasks."""


class Policy(Struct, frozen=True):
    """The server's rules for unsuccessful runs: the backoff, how often a task may lose its worker (at least 2), and the
    seconds that it waits for a worker that has its handler."""

    retry: RetryPolicy = RetryPolicy()
    max_lost: int = 3
    handler_wait: float = 3600.0


class Effect(Struct, frozen=True):
    """What the end of a run brings about beside its task's own change: base of successors, deliveries, freed keys."""


class Hold(Effect, frozen=True):
    """Nothing of the task's key (None: of its queue) starts before `until` (ms)."""

    key: str | None
    until: int


class Transition(Struct, frozen=True, gc=False):
    """What to write for an outcome: the complete new state of everything that a settle may change.

    `error` None leaves the stored last error; `finished_at` and `result` None clear. `error_group` is the group of
    `error` (core.shape), set whenever that is. `effects` are what else the same commit brings about. `snoozed`: it
    asked for a later time itself.
    """

    kind: Kind
    status: Status
    run_at: int
    attempts: int
    failures: int
    lost: int
    finished_at: int | None = None
    result: bytes | None = None
    error: TaskError | None = None
    error_group: str | None = None
    effects: tuple[Effect, ...] = ()
    snoozed: bool = False

    @property
    def outcome(self) -> str:
        """The run's outcome as its history has it: whatever became of it, a run that ended cancelled is cancelled."""
        return (Kind.CANCELLED if self.status is Status.CANCELLED else self.kind).value

    @property
    def finished(self) -> bool:
        """Whether the task comes to its end."""
        return self.status in FINISHED

    @property
    def attempt(self) -> int:
        """Which attempt this is the end of: a released one is taken back, and was one more."""
        if self.error is not None:
            return self.error.attempt
        return self.attempts + (self.kind is Kind.RELEASED and self.status is Status.QUEUED)

    # What everybody who counts goes by: metrics, charts, rates and history cannot disagree.

    @property
    def finished_as(self) -> str | None:
        """As what the task came to its end: done, cancelled, or how its last run ended; None when it waits again."""
        if self.status is Status.QUEUED:
            return None
        if self.status is Status.FAILED and self.kind is not Kind.RELEASED:
            return self.kind.value
        return self.status.value

    @property
    def retried(self) -> bool:
        """Whether an unsuccessful run is tried again, a lost one too; one that was released did not end."""
        return self.status is Status.QUEUED and self.ran

    @property
    def ran(self) -> bool:
        """Whether this is the end of a run, whose time counts."""
        return self.kind is not Kind.RELEASED

    @property
    def rescued(self) -> bool:
        """Whether the worker was lost."""
        return self.kind is Kind.LOST

    @property
    def keeps_place(self) -> bool:
        """Whether the task goes back to the place that it had in its queue."""
        return self.kind is Kind.RELEASED and self.error is None and not self.snoozed

    @property
    def is_attempt(self) -> bool:
        """Whether an unsuccessful attempt is kept of it; one that no handler was there for is none."""
        return self.kind is not Kind.DONE and (self.kind is not Kind.RELEASED or self.error is None)


# Members of an enum by bare names, here and wherever each task passes: in Python 3.11 the look-up in its class takes
# ten times as long.
_KIND_DONE, _STATUS_DONE, _RUNNING = Kind.DONE, Status.DONE, Status.RUNNING
(_CLAIMED_FROM,), (_SETTLED_FROM,) = ALLOWED[Event.CLAIM], ALLOWED[Event.SETTLE]


def claimed(task: Task, now: int, worker: str | None) -> Task:
    """The queued task as it is once `worker` has claimed it at `now`: it cannot expire any more.

    Raises ValueError for one that is not queued.
    """
    if task.status is not _CLAIMED_FROM:
        raise ValueError(f"task '{task.id}' is {task.status}: it does not wait")
    return replace(
        task, status=_RUNNING, attempts=task.attempts + 1, started_at=now, worker=worker, expires_at=None
    )


def decide(task: Task, outcome: Outcome, now: int, policy: Policy, random: Callable[[], float]) -> Transition:
    """The transition of a running `task` whose run came to `outcome` at `now`.

    Raises ValueError for a task that does not run, and for a cancelled run whose cancelling nobody asked for: an
    illegal move changes nothing.
    """
    if task.status is not _SETTLED_FROM:
        raise ValueError(f"task '{task.id}' is {task.status}: it has no run to settle")
    if outcome.kind is _KIND_DONE:
        return Transition(
            _KIND_DONE,
            _STATUS_DONE,
            task.run_at,
            task.attempts,
            task.failures,
            task.lost,
            now,
            outcome.result,
        )
    if task.cancel_requested:
        return replace(_end(task, outcome.kind, Status.CANCELLED, now), effects=_effects(task, outcome, now))
    if outcome.kind is Kind.CANCELLED:
        raise ValueError(f"nobody asked to cancel task '{task.id}'")
    if outcome.kind is Kind.RELEASED and outcome.error_type == UNKNOWN_HANDLER:
        return _no_handler(task, outcome, now, policy)
    if outcome.kind is Kind.RELEASED and outcome.retry_in is not None:
        later = now + round(outcome.retry_in * 1000)
        snoozed = _again(task, outcome.kind, later, attempts=task.attempts - 1)
        return replace(snoozed, snoozed=True, effects=_effects(task, outcome, now))
    if outcome.kind is Kind.RELEASED:
        # It was its turn: it keeps its place before those that have waited for less.
        return _again(task, outcome.kind, task.run_at, attempts=task.attempts - 1)
    if outcome.kind is Kind.LOST:
        return _lost(task, outcome, now, policy, random)
    return _failed(task, outcome, now, policy, random)


def _failed(
    task: Task, outcome: Outcome, now: int, policy: Policy, random: Callable[[], float]
) -> Transition:
    failures = task.failures + 1
    error = _error(task, outcome, outcome.error_type or outcome.kind.value, now)
    if not outcome.retryable or failures > task.max_retries:
        return _end(task, outcome.kind, Status.FAILED, now, failures=failures, error=error)
    delay = policy.retry.delay(failures, random) if outcome.retry_in is None else outcome.retry_in
    return _again(task, outcome.kind, now + round(delay * 1000), failures=failures, error=error)


def _lost(task: Task, outcome: Outcome, now: int, policy: Policy, random: Callable[[], float]) -> Transition:
    lost = task.lost + 1
    error = _error(task, outcome, WORKER_LOST, now)
    if lost >= policy.max_lost:
        return _end(task, outcome.kind, Status.FAILED, now, lost=lost, error=error)
    # One unlucky restart should cost no time either: the first rescue is immediate, backoff begins with the second.
    delay = policy.retry.delay(lost - 1, random) if lost > 1 else 0.0
    return _again(task, outcome.kind, now + round(delay * 1000), lost=lost, error=error)


def _no_handler(task: Task, outcome: Outcome, now: int, policy: Policy) -> Transition:
    """A worker that cannot run such tasks costs no attempt; the pauses grow, since another such worker may be next."""
    waiting = _waiting_since(task)
    since, pause = (task.run_at, FIRST_PAUSE_S) if waiting is None else waiting
    message = f"the workers that took the task have no handler '{task.handler}'"
    error = _error(task, replace(outcome, message=message), UNKNOWN_HANDLER, now)
    if now - since >= policy.handler_wait * 1000:
        return _end(task, Kind.FAILED, Status.FAILED, now, attempts=task.attempts - 1, error=error)
    return _again(
        task, outcome.kind, now + pause * 1000, attempts=task.attempts - 1, error=replace(error, since=since)
    )


def _effects(task: Task, outcome: Outcome, now: int) -> tuple[Effect, ...]:
    if outcome.kind is not Kind.RELEASED or outcome.hold is None or outcome.retry_in is None:
        return ()
    key = task.key if outcome.hold == "key" else None
    return (Hold(key, now + round(min(outcome.retry_in, MAX_HOLD_S) * 1000)),)


def _waiting_since(task: Task) -> tuple[int, int] | None:
    """When a task that waits for its handler was first due, and the seconds of its next pause; None: it does not."""
    error = task.last_error
    if error is None or error.since is None:
        return None
    last = round((task.run_at - error.at) / 1000)
    return error.since, min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * last))


def _end(
    task: Task,
    kind: Kind,
    status: Status,
    now: int,
    *,
    attempts: int | None = None,
    failures: int | None = None,
    lost: int | None = None,
    error: TaskError | None = None,
) -> Transition:
    return Transition(
        kind=kind,
        status=status,
        run_at=task.run_at,
        attempts=task.attempts if attempts is None else attempts,
        failures=task.failures if failures is None else failures,
        lost=task.lost if lost is None else lost,
        finished_at=now,
        error=error,
        error_group=_group(task, error),
    )


def _again(
    task: Task,
    kind: Kind,
    run_at: int,
    *,
    attempts: int | None = None,
    failures: int | None = None,
    lost: int | None = None,
    error: TaskError | None = None,
) -> Transition:
    return Transition(
        kind=kind,
        status=Status.QUEUED,
        run_at=run_at,
        attempts=task.attempts if attempts is None else attempts,
        failures=task.failures if failures is None else failures,
        lost=task.lost if lost is None else lost,
        error=error,
        error_group=_group(task, error),
    )


def _error(task: Task, outcome: Outcome, type_: str, now: int) -> TaskError:
    return TaskError(
        type=type_, message=outcome.message, traceback=outcome.traceback, attempt=task.attempts, at=now
    )


def _group(task: Task, error: TaskError | None) -> str | None:
    return None if error is None else error_group(task.handler, error.type, error.message)[0]
