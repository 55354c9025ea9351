"""What a store keeps of a schedule, and what becomes of it when times come.

`plan` says which tasks are to be made now, `concluded` what their acceptance means for the schedule. A store does both,
and writes what they say, in one commit with the tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from jobpipe.core.cron import BadCron
from jobpipe.core.errors import JobpipeError, QueueFull, TooManyQueues
from jobpipe.core.schedules import Overlap, Timing, due, next_time, put_off_ms, task_id
from jobpipe.core.task import NewTask, Status, Task
from jobpipe.core.unique import Answer, Known, returning

RETRY_MS, RETRY_MOST_MS = 500, 30_000
"""A task that was refused is tried again after so long, twice as long each time, up to the second."""
UNREADABLE_MS = 60_000
"""A schedule whose zone or expression this server cannot read, for its time zone data are others, is tried again."""


class Template(Struct, frozen=True, omit_defaults=True):
    """What a schedule enqueues: a task without id and time. `expires` is in seconds, `sent` is its JSON as it came."""

    sent: bytes
    handler: str
    payload: bytes = b"null"
    queue: str = "default"
    priority: int = 0
    max_retries: int = 3
    timeout: float | None = None
    key: str | None = None
    uniqueness: str | None = None
    expires: float | None = None

    def task(self, id: str, schedule: str, scheduled_for: int, run_at: int, now: int) -> NewTask:
        """The task that runs at `run_at`. A unique key that is taken is no refusal: the living task is the answer."""
        expires_at = None if self.expires is None else max(run_at, now) + round(self.expires * 1000)
        return NewTask(
            id, self.handler, self.payload, self.queue, self.priority, self.max_retries, run_at, self.timeout,
            key=self.key, uniqueness=None if self.uniqueness is None else returning(self.uniqueness),
            expires_at=expires_at, schedule=schedule, scheduled_for=scheduled_for,
        )  # fmt: skip


class Schedule(Struct, frozen=True, omit_defaults=True):
    """A stored schedule. Times in ms; `position` is the time up to which all is dealt with, but for `refused`: a time
    whose task was refused `tries` times and is tried again at `retry_at`.

    `declared_by` is the app that declared it with its `release`; one that people `edited` stays as they said.
    """

    name: str
    timing: Timing
    template: Template
    paused: bool = False
    position: int = 0
    declared_by: str | None = None
    release: int = 0
    edited: bool = False
    changed_at: int | None = None
    changed_by: str | None = None
    last_at: int | None = None
    last_task: str | None = None
    last_error: str | None = None
    missed: int = 0
    refused: int | None = None
    tries: int = 0
    retry_at: int = 0

    @property
    def next_at(self) -> int | None:
        """The next of its times; None while it is paused, and when none comes any more. Raises BadCron."""
        return None if self.paused else next_time(self.timing, self.position)


class Plan(Struct, frozen=True):
    """The tasks to be made now, and the schedule as it is once its times are dealt with."""

    schedule: Schedule
    tasks: tuple[NewTask, ...] = ()


def moments(schedule: Schedule) -> tuple[int | None, int | None]:
    """When there is something to do, and for which time a task is to be made then; None for never."""
    try:
        at = schedule.next_at
    except BadCron:
        return schedule.retry_at, schedule.position
    if schedule.paused or schedule.refused is None:
        return at, at
    return schedule.retry_at if at is None else min(at, schedule.retry_at), schedule.refused


def plan(schedule: Schedule, now: int, last: Status | None) -> Plan:
    """What is to be done at `now`; `last` is the status of its last task, None when that is gone."""
    if schedule.paused:
        return Plan(schedule)
    try:
        found = due(schedule.timing, schedule.position, now)
    except BadCron as error:
        return Plan(replace(schedule, last_error=f"unreadable: {error}", retry_at=now + UNREADABLE_MS))
    times, missed, refused = found.times, schedule.missed + found.missed, schedule.refused
    if refused is not None:
        if times:
            missed, refused = missed + 1, None
        elif schedule.retry_at <= now:
            times = (refused,)
    if times and schedule.timing.overlap is Overlap.SKIP:
        refused = None
        times = () if last in (Status.QUEUED, Status.RUNNING) else times[:1]
    moved = replace(schedule, position=found.position, missed=missed, refused=refused)
    if refused is None and schedule.refused is not None:
        moved = replace(moved, tries=0)
    return Plan(moved, tuple(_task(schedule, at, now) for at in times))


def _task(schedule: Schedule, at: int, now: int) -> NewTask:
    id = task_id(schedule.name, at)
    run_at = at + put_off_ms(id, schedule.timing.jitter)
    return schedule.template.task(id, schedule.name, at, run_at, now)


def concluded(plan: Plan, answers: Sequence[Answer], now: int) -> Schedule:
    """The schedule after its tasks were answered, in the order of its times."""
    schedule = plan.schedule
    for new, answer in zip(plan.tasks, answers, strict=True):
        schedule = _concluded(schedule, new.scheduled_for or 0, answer, now)
    return schedule


def _concluded(schedule: Schedule, at: int, answer: Answer, now: int) -> Schedule:
    if isinstance(answer, Task | Known):
        made = answer.task if isinstance(answer, Known) else answer
        return replace(
            schedule, last_at=at, last_task=made.id, last_error=None, refused=None, tries=0, retry_at=0
        )
    missed = schedule.missed + (schedule.refused is not None and schedule.refused != at)
    said = f"{answer.code}: {answer.detail or answer.sentence}"
    if not isinstance(answer, QueueFull | TooManyQueues):
        return replace(schedule, missed=missed + 1, last_error=said, refused=None, tries=0, retry_at=0)
    tries = schedule.tries + 1 if schedule.refused == at else 1
    pause = min(RETRY_MS << min(tries - 1, 10), RETRY_MOST_MS)
    return replace(schedule, missed=missed, last_error=said, refused=at, tries=tries, retry_at=now + pause)


def refusals(answers: Sequence[Answer]) -> int:
    """How many of the answers are refusals."""
    return sum(isinstance(answer, JobpipeError) for answer in answers)
