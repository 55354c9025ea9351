"""What a storage engine promises about schedules, and the form in which it keeps one: JSON that core's values make.

Times are judged by the store's own clock. Making the tasks that are due and moving the schedules on is one commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from jobpipe.core.errors import JobpipeError
from jobpipe.core.firing import Plan, Schedule, concluded, moments, plan, refusals
from jobpipe.core.schedule_edits import Edit, Edited
from jobpipe.core.task import NewTask, Status
from jobpipe.core.unique import Answer

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Schedule).decode

LATE_MS = 60_000
"""A task that was to be made so long ago, and was not, counts as late."""


class Fired(Struct, frozen=True):
    """What became of the schedules that were due: their tasks and the answers, how many times were missed, and whether
    there may be more to do at once. `busy`: another server is at it.
    """

    tasks: list[NewTask]
    answers: list[Answer]
    missed: int = 0
    refused: int = 0
    more: bool = False
    busy: bool = False


NONE = Fired([], [])
BUSY = Fired([], [], busy=True)


class ScheduleCounts(Struct, frozen=True):
    """How many schedules there are, how many of them come no more (paused, or ended), and how many are late."""

    all: int
    resting: int
    late: int


class Schedules(Protocol):
    """Schedules: kept, and their tasks made."""

    async def schedules(self, names: Sequence[str] | None = None) -> list[Schedule]:
        """Those of these names (None: all) that there are, by name."""
        ...

    async def edit_schedules(
        self, names: Sequence[str] | None, edit: Edit, now: int
    ) -> Edited | JobpipeError:
        """Carry out an edit of the schedules of these names (None: of all); what was done, or why nothing was."""
        ...

    async def fire(self, now: int, limit: int) -> Fired:
        """Make the tasks of up to `limit` schedules that are due, those first that have waited longest."""
        ...

    async def next_firing(self, now: int) -> int | None:
        """In how many ms there is something to do (0: now); None when there never is."""
        ...

    async def schedule_counts(self, now: int) -> ScheduleCounts:
        """How many there are."""
        ...


class Row(Struct, frozen=True, array_like=True):
    """A schedule as it is stored, and when it is to be looked at."""

    name: str
    data: str
    look_at: int | None
    waits_since: int | None


def row_of(schedule: Schedule) -> Row:
    """The row of a schedule."""
    return Row(schedule.name, encode(schedule).decode(), *moments(schedule))


def plans(schedules: Sequence[Schedule], statuses: dict[str, Status], now: int) -> list[Plan]:
    """What each is to make; `statuses` of their last tasks, as far as those are kept."""
    return [plan(schedule, now, statuses.get(schedule.last_task or "")) for schedule in schedules]


def conclusions(
    before: Sequence[Schedule], planned: Sequence[Plan], answers: list[Answer], now: int, *, more: bool
) -> tuple[list[Schedule], Fired]:
    """The schedules as they are to be stored, and what to tell of it; `answers` to the tasks of all plans, in order."""
    rest = iter(answers)
    after = [concluded(one, [next(rest) for _ in one.tasks], now) for one in planned]
    missed = sum(new.missed - old.missed for old, new in zip(before, after, strict=True))
    tasks = [task for one in planned for task in one.tasks]
    return after, Fired(tasks, answers, missed, refusals(answers), more)
